"""LocalRQA's `*_w_q.jsonl` and `*_w_qa.jsonl`: questions with the texts of their passages.

A `w_q` line has `questions`, a `w_qa` line one `question` with its `gold_answer`; both have
`gold_docs`, `hard_neg_docs` and `chat_history`. Documents are `{page_content, fmt_content,
metadata}`; what ragkit alone knows of a passage goes into their metadata and comes back.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from ragkit.data.files import BadLines, parse_jsonl, sha256_text, write_jsonl
from ragkit.data.formats.dataset import (
    Collected,
    Dataset,
    Options,
    clean_id,
    count,
    files_in,
    first_record,
    meta_not_held,
    require,
    role_of,
    split_of,
    text_passage,
)
from ragkit.data.schema import Example, Passage, Turn

_SPEAKERS = {"user": "User", "assistant": "Assistant"}
_TURN_PASSAGES = "history_passage_ids"
_TAKEN = ("source", "title", "passage_id")  # in the metadata of a document


def looks_like(path: Path) -> bool:
    """Return True for files whose first line has gold_docs."""
    return any("gold_docs" in first_record(p) for p in files_in(path, ".jsonl"))


def read(path: Path, options: Options) -> Dataset:
    """Read a file, or all of a folder; questions of a `w_q` that a `w_qa` answers are one example.

    Raises:
        DataError: no such file in the folder, or malformed lines.
    """
    passages, notes = Collected(options.corpus), []
    found: dict[str, dict[str, Example]] = {}
    files = files_in(path, ".jsonl")
    # w_q before w_qa: the first gives the order, the second the answers
    for file in sorted(files, key=lambda p: ("w_qa" in p.name, p.name)):
        if path.is_dir() and "gold_docs" not in first_record(file):
            notes.append(f"{file.name} is not of LocalRQA's questions and was left out.")
            continue
        bad = BadLines(file, options.skip_bad)
        split = found.setdefault(split_of(file), {})
        merged = empty = 0

        def parse(row: Any) -> tuple[list[Example], int]:
            examples = list(_examples(row, passages))
            return examples, len(_questions(row)) - len(examples)

        for _, (examples, unasked) in parse_jsonl(file, parse, bad, options.encoding):
            empty += unasked
            for example in examples:
                merged += example.id in split
                split[example.id] = _merged(split.get(example.id), example)
        bad.finish()
        if empty:
            notes.append(f"{file.name}: {count(empty, 'empty question')} left out.")
        if merged:
            notes.append(
                f"{file.name}: {count(merged, 'question')} with passages that came before became "
                "one example with the earlier one, with all answers."
            )
    splits = {name: list(examples.values()) for name, examples in found.items()}
    return Dataset(passages.by_id, splits, notes=[*notes, *passages.notes()])


def write(folder: Path, dataset: Dataset, options: Options) -> list[str]:
    """Write `<split>_w_q.jsonl` and, of questions with answers, `<split>_w_qa.jsonl`."""
    require(dataset, "LocalRQA")
    docs = {key: _doc(passage) for key, passage in dataset.corpus.items()}
    for split, all_examples in dataset.splits.items():
        examples = [e for e in all_examples if e.answerable]
        groups = groupby(examples, key=lambda e: (e.positive_ids, e.negative_ids, e.history))
        asked = [list(group) for _, group in groups]
        write_jsonl(
            folder / f"{split}_w_q.jsonl",
            ({**_frame(g[0], docs), "questions": [e.question for e in g]} for g in asked),
        )
        if any(e.answers for e in examples):
            write_jsonl(folder / f"{split}_w_qa.jsonl", _answered(examples, docs))
    named = {i for e in dataset.examples for i in (*e.positive_ids, *e.negative_ids)}
    named |= {i for e in dataset.examples for ids in e.meta.get(_TURN_PASSAGES, []) for i in ids}
    return [*_losses(dataset), *_unnamed(dataset, named)]


def _questions(row: Any) -> list[Any]:
    """Return the questions of a line, with the empty ones that a teacher leaves behind."""
    if not isinstance(row, dict) or "gold_docs" not in row:
        raise ValueError("an object with gold_docs was expected")
    questions = row.get("questions", [row.get("question")])
    if not isinstance(questions, list) or not questions:
        raise ValueError(f"questions: a list was expected, not {questions!r}")
    return questions


def _examples(row: Any, passages: Collected) -> Iterator[Example]:
    """Yield the examples of a line, of each question that is not empty."""
    questions = _questions(row)
    for question in questions:
        if not isinstance(question, str) or (question and not question.strip()):
            raise ValueError(f"question: a text was expected, not {question!r}")
    answer = row.get("gold_answer") or ""
    if not isinstance(answer, str):
        raise ValueError(f"gold_answer: a text was expected, not {answer!r}")
    gold = tuple(_ids(row, "gold_docs", passages))
    negative = tuple(_ids(row, "hard_neg_docs", passages))
    history, shown = _history(row, passages)
    told = [turn.content for turn in history]
    for question in filter(None, questions):
        yield Example(
            id=sha256_text(*(gold or ("",)), *told, question)[:16],
            question=question,
            answers=(answer,) if answer.strip() else (),
            positive_ids=gold,
            negative_ids=negative,
            history=history,
            meta={_TURN_PASSAGES: shown} if any(shown) else {},
        )


def _history(row: Mapping[str, Any], passages: Collected) -> tuple[tuple[Turn, ...], list[Any]]:
    """Return the turns before the question, and the passages that each turn was told from."""
    turns, shown = [], []
    for turn in _objects(row, "chat_history"):
        if not isinstance(turn.get("message"), str):
            raise ValueError(f"chat_history: a message was expected, not {turn!r}")
        turns.append(Turn(role_of(turn.get("speaker")), turn["message"]))
        shown.append(_ids(turn, "source_documents", passages))
    return tuple(turns), shown


def _ids(row: Mapping[str, Any], key: str, passages: Collected) -> list[str]:
    return list(dict.fromkeys(passages.add(_passage(doc, key)) for doc in _objects(row, key)))


def _objects(row: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    value = row.get(key) or []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ValueError(f"{key}: a list of objects was expected")
    return value


def _passage(doc: Mapping[str, Any], key: str) -> Passage:
    text, metadata = doc.get("page_content"), doc.get("metadata") or {}
    if not isinstance(text, str) or not isinstance(metadata, dict):
        raise ValueError(f"{key}: page_content is a text, and metadata an object")
    meta = dict(metadata)
    title = meta.pop("title") if isinstance(meta.get("title"), str) else ""
    source = meta.pop("source") if isinstance(meta.get("source"), str) else ""
    own_id = meta.pop("passage_id", None)
    made = text_passage(text, title, source)
    if made.doc_id != source:
        meta["original_doc_id"] = source
    if doc.get("fmt_content", _formatted(source, title, text)) != _formatted(source, title, text):
        meta["fmt_content"] = doc["fmt_content"]
    passage_id = clean_id(str(own_id)) if own_id else made.id
    return Passage(passage_id, text, title, made.doc_id, meta)


def _doc(passage: Passage) -> dict[str, Any]:
    """Return LocalRQA's document of a passage."""
    meta = dict(passage.meta)
    source = str(meta.pop("original_doc_id", passage.doc_id))
    formatted = _formatted(source, passage.title, passage.text)
    shown = meta.pop("fmt_content", formatted)
    metadata = {**meta, "source": source, "title": passage.title}
    metadata.pop("passage_id", None)
    if text_passage(passage.text, passage.title, source).id != passage.id:
        metadata["passage_id"] = passage.id
    return {"page_content": passage.text, "fmt_content": shown, "metadata": metadata}


def _formatted(source: str, title: str, text: str) -> str:
    return f"Source: {source}\nTitle: {title}\nContent:\n{text}"


def _merged(first: Example | None, second: Example) -> Example:
    if first is None:
        return second
    answers = tuple(dict.fromkeys((*first.answers, *second.answers)))
    negatives = tuple(dict.fromkeys((*first.negative_ids, *second.negative_ids)))
    return Example(
        first.id, first.question, answers, first.positive_ids, negatives, first.history,
        meta={**second.meta, **first.meta},
    )  # fmt: skip


def _answered(examples: Iterable[Example], docs: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for example in examples:
        for answer in example.answers:
            frame = _frame(example, docs)
            yield {**frame, "question": example.question, "gold_answer": answer}


def _frame(example: Example, docs: Mapping[str, Any]) -> dict[str, Any]:
    """Return what both kinds of lines have."""
    shown = example.meta.get(_TURN_PASSAGES) or [[] for _ in example.history]
    return {
        "gold_docs": [docs[i] for i in example.positive_ids],
        "hard_neg_docs": [docs[i] for i in example.negative_ids],
        "chat_history": [
            {
                "speaker": _SPEAKERS[turn.role],
                "message": turn.content,
                "source_documents": [docs[i] for i in ids],
            }
            for turn, ids in zip(example.history, shown, strict=True)
        ],
    }


def _losses(dataset: Dataset) -> list[str]:
    notes = []
    unanswerable = [e for e in dataset.examples if not e.answerable]
    if unanswerable:
        notes.append(
            f"LocalRQA has no unanswerable questions: {count(unanswerable, 'question')} left out."
        )
    answerable = [e for e in dataset.examples if e.answerable]
    several = [e for e in answerable if len(e.answers) > 1]
    if several:
        notes.append(
            f"{count(several, 'question')} with several answers became a line of each answer."
        )
    own = [e for e in answerable if e.id != _id_of(e)]
    if own:
        notes.append(f"LocalRQA does not hold ids of questions: lost of {count(own, 'question')}.")
    metas = [e.meta for e in answerable]
    notes += meta_not_held("LocalRQA", "question", metas, (_TURN_PASSAGES,))
    taken = [{k: v for k, v in p.meta.items() if k in _TAKEN} for p in dataset.corpus.values()]
    return [*notes, *meta_not_held("LocalRQA", "passage", taken)]


def _id_of(example: Example) -> str:
    told = [turn.content for turn in example.history]
    return sha256_text(*(example.positive_ids or ("",)), *told, example.question)[:16]


def _unnamed(dataset: Dataset, named: set[str]) -> list[str]:
    rest = [i for i in dataset.corpus if i not in named]
    if not rest:
        return []
    return [
        f"LocalRQA's files have only the passages of questions: {count(rest, 'passage')} that no "
        "question names left out."
    ]
