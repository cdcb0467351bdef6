"""ChatRAG-Bench: `messages` with the `document` they are about, and documents.json with chunks.

A chunk is a passage called `<document>::<index>`. The last message is the question, those before
it the history; `ground_truth_ctx` says by index which chunk answers.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ragkit.data.files import BadLines, read_json, write_json
from ragkit.data.formats.dataset import (
    Collected,
    Dataset,
    Ids,
    Options,
    clean_id,
    count,
    distinct,
    files_in,
    meta_not_held,
    not_held,
    original_id,
    require,
    role_of,
    split_of,
    with_original,
)
from ragkit.data.schema import Example, Passage, Turn
from ragkit.errors import DataError

_DOCUMENTS = "documents.json"
ABOUT = "context_document"  # in the meta of a question without a chunk that answers
REFUSAL = "Sorry. I cannot find the answer based on the context."  # where there is none
_OWN = ("id", "messages", "document", "ground_truth_ctx", "answers")


def looks_like(path: Path) -> bool:
    """Return True for JSON lists of messages about a document, with documents.json beside."""
    folder = path if path.is_dir() else path.parent
    return (folder / _DOCUMENTS).is_file() and any(
        _is_chats(_read_or_none(p)) for p in files_in(path, ".json")
    )


def read(path: Path, options: Options) -> Dataset:
    """Read a file with the documents.json beside it, or all files of a folder.

    Raises:
        DataError: no documents.json, not JSON, or malformed conversations.
    """
    folder = path if path.is_dir() else path.parent
    found = Dataset()
    chunks = _read_documents(folder / _DOCUMENTS, options, found)
    ids_of: dict[str, Ids] = {}
    agents = 0
    for file in files_in(path, ".json"):
        if file.name == _DOCUMENTS:
            continue
        content = read_json(file, options.encoding)
        if not _is_chats(content):
            raise DataError(f"{file}: a list of objects with messages and document was expected")
        bad = BadLines(file, options.skip_bad)
        ids = ids_of.setdefault(split_of(file), Ids())
        split = found.splits.setdefault(split_of(file), [])
        for i, record in enumerate(content):
            try:
                split.append(_example(record, chunks, ids))
                agents += sum(m["role"] not in ("user", "assistant") for m in record["messages"])
            except ValueError as error:
                bad.add(f"[{i}]", str(error), json.dumps(record, ensure_ascii=False)[:1000])
        bad.finish()
    found.notes += [note for ids in ids_of.values() for note in ids.notes("question")]
    if agents:
        found.notes.append(
            f"{count(agents, 'message')} of an agent or of another name for it: the role is "
            "assistant now."
        )
    return found


def write(folder: Path, dataset: Dataset, options: Options) -> list[str]:
    """Write documents.json with all passages, and `<split>.json`."""
    require(dataset, "ChatRAG-Bench")
    documents: dict[str, list[str]] = {}
    places: dict[str, tuple[str, int]] = {}
    for key, passage in dataset.corpus.items():
        document = str(passage.meta.get("original_doc_id", passage.source))
        chunks = documents.setdefault(document, [])
        places[key] = document, len(chunks)
        chunks.append(passage.rendered)
    write_json(folder / _DOCUMENTS, documents)
    for split, examples in dataset.splits.items():
        found = [(e, _place(e, places, documents)) for e in examples]
        records = [_record(example, *place) for example, place in found if place is not None]
        write_json(folder / f"{split}.json", records)
    without = sum(_place(e, places, documents) is None for e in dataset.examples)
    return [*_left_out(without), *_losses(dataset, places)]


def _read_or_none(path: Path) -> object:
    try:
        return read_json(path)
    except DataError:
        return None


def _is_chats(content: object) -> bool:
    return isinstance(content, list) and any(
        isinstance(record, dict) and "messages" in record and "document" in record
        for record in content
    )


def _read_documents(path: Path, options: Options, found: Dataset) -> dict[str, dict[int, str]]:
    """Put the chunks into the corpus; return the id of each, by document and index."""
    content = read_json(path, options.encoding)
    if not isinstance(content, dict) or not content:
        raise DataError(f"{path}: an object with a list of chunks for each document was expected")
    bad, passages, renamed = BadLines(path, options.skip_bad), Collected(options.corpus), Ids()
    chunks: dict[str, dict[int, str]] = {}
    empty = 0
    for document, texts in content.items():
        try:
            doc_id = renamed.clean(document)
            if not isinstance(texts, list) or not all(isinstance(t, str) for t in texts):
                raise ValueError("a list of texts was expected")
        except ValueError as error:
            bad.add(document, str(error), "")
            continue
        meta = {"original_doc_id": document} if doc_id != document else {}
        empty += sum(not text.strip() for text in texts)
        chunks[document] = {
            i: passages.add(Passage(f"{doc_id}::{i}", text, "", doc_id, meta))
            for i, text in enumerate(texts)
            if text.strip()
        }
    bad.finish()
    found.corpus = passages.by_id
    if empty:
        found.notes.append(f"{count(empty, 'empty chunk')} left out.")
    if renamed.changed:
        found.notes.append(
            f"{count(renamed.changed, 'document name')} had white space, which became '-'; what it "
            "was is in meta.original_doc_id of the passages."
        )
    found.notes += passages.notes()
    return chunks


def _example(record: object, chunks: Mapping[str, Mapping[int, str]], ids: Ids) -> Example:
    if not isinstance(record, dict):
        raise ValueError("an object was expected")
    turns = _turns(record.get("messages"))
    if not turns or turns[-1].role != "user":
        raise ValueError("messages: the last must be the user's: it is the question")
    answers = record.get("answers") or []
    answers = [answers] if isinstance(answers, str) else answers
    if not isinstance(answers, list) or not all(isinstance(a, str) for a in answers):
        raise ValueError("answers: a list of texts was expected")
    document, truth = record.get("document"), record.get("ground_truth_ctx") or {}
    if not isinstance(document, str) or document not in chunks:
        raise ValueError(f"document: {document!r} is not in {_DOCUMENTS}")
    positives = tuple(_gold(truth, document, chunks[document]))
    meta = {key: value for key, value in record.items() if key not in _OWN}
    if beside := {key: value for key, value in truth.items() if key != "index"}:
        meta["ground_truth_ctx"] = beside
    if "id" in record:
        key = ids.take(record["id"])
        meta = with_original(meta, record["id"], key)
    else:
        key = ids.make(document, json.dumps(record["messages"], ensure_ascii=False))
    answerable = not answers or any(answer != REFUSAL for answer in answers)
    if not positives or not answerable:
        meta[ABOUT] = document
    return Example(
        key, turns[-1].content, distinct(answers, None)[0] if answerable else (),
        positives if answerable else (), (), tuple(turns[:-1]), answerable, meta=meta,
    )  # fmt: skip


def _turns(messages: object) -> list[Turn]:
    if not isinstance(messages, list):
        raise ValueError("messages: a list of {role, content} was expected")
    turns = []
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise ValueError("messages: a list of {role, content} was expected")
        turns.append(Turn(role_of(message.get("role")), message["content"]))
    if turns and not turns[-1].content.strip():
        raise ValueError("messages: the last is empty")
    return turns


def _gold(truth: object, document: str, chunks: Mapping[int, str]) -> Iterator[str]:
    if not isinstance(truth, dict):
        raise ValueError(f"ground_truth_ctx: an object was expected, not {truth!r}")
    index = truth.get("index")
    indices = index if isinstance(index, list) else [] if index is None else [index]
    for i in dict.fromkeys(indices):
        if isinstance(i, bool) or not isinstance(i, int) or i not in chunks:
            raise ValueError(f"ground_truth_ctx: no chunk {i!r} of document {document!r}")
        yield chunks[i]


def _place(
    example: Example, places: Mapping[str, tuple[str, int]], documents: Collection[str]
) -> tuple[str, int | None] | None:
    """Return the document of a question and the index of its chunk, as far as they are known."""
    if example.positive_ids:
        return places[example.positive_ids[0]]
    document = example.meta.get(ABOUT)
    return (document, None) if isinstance(document, str) and document in documents else None


def _record(example: Example, document: str, index: int | None) -> dict[str, Any]:
    messages = [{"role": turn.role, "content": turn.content} for turn in example.history]
    truth = dict(example.meta.get("ground_truth_ctx") or {})
    if index is not None:
        truth["index"] = index
    others = {k: v for k, v in example.meta.items() if k not in (*_OWN, ABOUT, "original_id")}
    return {
        "id": original_id(example.meta, example.id),
        "messages": [*messages, {"role": "user", "content": example.question}],
        "document": document,
        "ground_truth_ctx": truth,
        "answers": list(example.answers) if example.answerable else [REFUSAL],
        **others,
    }


def _left_out(without: int) -> list[str]:
    if not without:
        return []
    return [
        "ChatRAG-Bench's questions are about a document: "
        f"{count(without, 'question')} without a passage left out."
    ]


def _losses(dataset: Dataset, places: Mapping[str, tuple[str, int]]) -> list[str]:
    notes = not_held("ChatRAG-Bench", dataset, ("second_positives", "negatives"))
    if titled := sum(bool(p.title) for p in dataset.corpus.values()):
        notes.append(
            f"ChatRAG-Bench has no titles: of {count(titled, 'passage')} it is the first line of "
            "the chunk now."
        )
    named = {key: f"{clean_id(document)}::{i}" for key, (document, i) in places.items()}
    if other := sum(key != name for key, name in named.items()):
        notes.append(
            f"ChatRAG-Bench names passages by their document and place: {count(other, 'id')} lost."
        )
    passages = dataset.corpus.values()
    return notes + meta_not_held(
        "ChatRAG-Bench", "passage", (p.meta for p in passages), ("original_doc_id",)
    )
