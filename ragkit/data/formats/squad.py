"""SQuAD's JSON, 1.1 and 2.0: articles, their paragraphs, and questions with spans of a paragraph.

A paragraph is a passage, an article a document. Paragraphs that ragkit wrote have an `id`, which
SQuAD's own readers pass over.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
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
    split_of,
    text_passage,
    with_original,
)
from ragkit.data.schema import Example, Passage
from ragkit.errors import DataError

_HELD = ("original_id", "context_ids", "answer_starts", "plausible_answers")


def looks_like(path: Path) -> bool:
    """Return True for JSON with a list called data, of articles with paragraphs."""
    return any(_is_squad(_read_or_none(p)) for p in files_in(path, ".json"))


def read(path: Path, options: Options) -> Dataset:
    """Read a file, or all of a folder.

    Raises:
        DataError: not JSON, no articles, or malformed questions.
    """
    passages, found = Collected(options.corpus), Dataset()
    ids_of: dict[str, Ids] = {}
    repeated = wrong = 0
    for file in files_in(path, ".json"):
        content = read_json(file, options.encoding)
        if not _is_squad(content):
            if not path.is_dir():
                raise DataError(f"{file}: not of SQuAD's shape: data, paragraphs, qas")
            found.notes.append(f"{file.name} is not of SQuAD's shape and was left out.")
            continue
        bad = BadLines(file, options.skip_bad)
        ids = ids_of.setdefault(split_of(file), Ids())
        split = found.splits.setdefault(split_of(file), [])
        for where, title, paragraph in _paragraphs(content, bad):
            try:
                passage = _passage(paragraph, title)
                key = passages.add(passage)
            except ValueError as error:
                bad.add(where, str(error), "")
                continue
            for i, qa in enumerate(_list(paragraph.get("qas"))):
                try:
                    example = _example(qa, key, ids)
                except ValueError as error:
                    bad.add(f"{where}.qas[{i}]", str(error), str(qa)[:1000])
                    continue
                repeated += len(_list(qa.get("answers"))) - len(example.answers)
                wrong += sum(not ok for _, _, ok in _spans(example, passage))
                split.append(example)
        bad.finish()
    if repeated:
        found.notes.append(f"{count(repeated, 'repeated or empty answer')} left out.")
    if wrong:
        found.notes.append(
            f"{count(wrong, 'answer')} not at the offset that the file gives; the offsets are in "
            "meta.answer_starts as they were."
        )
    found.corpus = passages.by_id
    found.notes += [note for ids in ids_of.values() for note in ids.notes("question")]
    found.notes += passages.notes()
    return found


def write(folder: Path, dataset: Dataset, options: Options) -> list[str]:
    """Write `<split>.json`, as version 2.0 where a question is unanswerable, else as 1.1."""
    require(dataset, "SQuAD")
    notes: list[str] = []
    left_out: dict[str, int] = {}
    for split, examples in dataset.splits.items():
        v2 = any(not e.answerable for e in examples)
        asked: dict[str, list[dict[str, Any]]] = {}
        for example in examples:
            key, reason = _home(example, dataset.corpus)
            if key is None:
                left_out[reason] = left_out.get(reason, 0) + 1
            else:
                asked.setdefault(key, []).append(_qa(example, dataset.corpus[key], v2))
        articles: dict[str, list[dict[str, Any]]] = {}
        for key, passage in dataset.corpus.items():
            if key in asked:
                article = _article(passage)
                articles.setdefault(article, []).append(_paragraph(passage, asked[key]))
        data = [{"title": name, "paragraphs": parts} for name, parts in articles.items()]
        write_json(folder / f"{split}.json", {"version": "v2.0" if v2 else "1.1", "data": data})
    for reason, number in left_out.items():
        notes.append(f"{count(number, 'question')} left out: {reason}.")
    return [*notes, *_losses(dataset)]


def _read_or_none(path: Path) -> object:
    try:
        return read_json(path)
    except DataError:
        return None


def _is_squad(content: object) -> bool:
    data = content.get("data") if isinstance(content, dict) else None
    return isinstance(data, list) and any(isinstance(a, dict) and "paragraphs" in a for a in data)


def _paragraphs(
    content: Mapping[str, Any], bad: BadLines
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield (place in the JSON, title of the article, paragraph); note what is none."""
    for i, article in enumerate(content["data"]):
        if not isinstance(article, dict) or not isinstance(article.get("paragraphs"), list):
            bad.add(f"data[{i}]", "an article with a list of paragraphs was expected", "")
            continue
        for j, paragraph in enumerate(article["paragraphs"]):
            where = f"data[{i}].paragraphs[{j}]"
            if not isinstance(paragraph, dict) or not isinstance(paragraph.get("context"), str):
                bad.add(where, "a paragraph with a context was expected", "")
            elif not isinstance(paragraph.get("qas", []), list):
                bad.add(where, "qas: a list was expected", "")
            else:
                yield where, str(article.get("title") or ""), paragraph


def _passage(paragraph: Mapping[str, Any], article: str) -> Passage:
    """Return the passage of a paragraph; underscores of the title are white space in SQuAD."""
    title = article.replace("_", " ")
    made = text_passage(paragraph["context"], title, doc_id=article)
    key = clean_id(str(paragraph.get("id", ""))) or made.id
    passage = Passage(key, made.text, title, made.doc_id)
    return passage if _article(passage) == article else replace(passage, meta={"article": article})


def _article(passage: Passage) -> str:
    """Return the name of a passage's article, underscores and all."""
    if "article" in passage.meta:
        return str(passage.meta["article"])
    written = passage.doc_id.replace("_", " ") == passage.title
    return passage.doc_id if written else passage.title or passage.doc_id


def _example(qa: object, passage_id: str, ids: Ids) -> Example:
    if not isinstance(qa, dict):
        raise ValueError("an object was expected")
    question, impossible = qa.get("question"), qa.get("is_impossible", False)
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"question: a text was expected, not {question!r}")
    if not isinstance(impossible, bool):
        raise ValueError(f"is_impossible: true or false, not {impossible!r}")
    given = _list(qa.get("answers"))
    if not all(isinstance(a, dict) and isinstance(a.get("text"), str) for a in given):
        raise ValueError("answers: a list of {text, answer_start} was expected")
    if impossible and given:
        raise ValueError("is_impossible: true, but it has answers")
    starts = [answer.get("answer_start") for answer in given]
    answers, starts_kept = distinct([answer["text"] for answer in given], starts)
    key = ids.take(qa.get("id"))
    meta = {k: v for k, v in qa.items() if k not in ("id", "question", "answers", "is_impossible")}
    meta = with_original(meta, qa.get("id"), key)
    if impossible:
        meta["context_ids"] = [passage_id]
    elif answers:
        meta["answer_starts"] = starts_kept
    positives = () if impossible else (passage_id,)
    return Example(key, question, answers, positives, answerable=not impossible, meta=meta)


def _spans(example: Example, passage: Passage) -> Iterator[tuple[str, int, bool]]:
    """Yield (answer, offset in the passage, whether that is the offset in the example's meta)."""
    told = example.meta.get("answer_starts")
    starts = told if isinstance(told, list) and len(told) == len(example.answers) else []
    for i, answer in enumerate(example.answers):
        start = starts[i] if starts else -1
        right = isinstance(start, int) and passage.text.startswith(answer, start) and start >= 0
        yield answer, start if right else passage.text.find(answer), right


def _home(example: Example, corpus: Mapping[str, Passage]) -> tuple[str | None, str]:
    """Return the passage under which a question is written, or None and why there is none."""
    if not example.answerable:
        contexts = [key for key in example.meta.get("context_ids", []) if key in corpus]
        if contexts:
            return contexts[0], ""
        return None, "SQuAD writes an unanswerable question under a passage, and none is known"
    for key in example.positive_ids:
        if any(start >= 0 for _, start, _ in _spans(example, corpus[key])):
            return key, ""
    return None, "SQuAD's answers are spans of a passage, and none of theirs is"


def _qa(example: Example, passage: Passage, v2: bool) -> dict[str, Any]:
    spans = [(text, start) for text, start, _ in _spans(example, passage) if start >= 0]
    kept = {"plausible_answers": example.meta.get("plausible_answers")}
    return {
        "id": original_id(example.meta, example.id),
        "question": example.question,
        "answers": [{"text": text, "answer_start": start} for text, start in spans],
        **({"is_impossible": not example.answerable} if v2 else {}),
        **{key: value for key, value in kept.items() if value},
    }


def _paragraph(passage: Passage, qas: list[dict[str, Any]]) -> dict[str, Any]:
    article = _article(passage)
    own_id = _passage({"context": passage.text}, article).id != passage.id
    return {"context": passage.text, "qas": qas, **({"id": passage.id} if own_id else {})}


def _losses(dataset: Dataset) -> list[str]:
    notes = not_held("SQuAD", dataset, ("second_positives", "negatives", "history"))
    homes = [(e, _home(e, dataset.corpus)[0]) for e in dataset.examples]
    spans = [s for e, key in homes if key for s in _spans(e, dataset.corpus[key])]
    if lost := sum(start < 0 for _, start, _ in spans):
        notes.append(f"{count(lost, 'answer')} left out, no span of the passage.")
    rest = set(dataset.corpus) - {key for _, key in homes}
    if rest:
        notes.append(f"{count(rest, 'passage')} without a question left out.")
    passages = dataset.corpus.values()
    if others := sum(_read_again(p) != (p.title, p.doc_id) for p in passages):
        notes.append(
            "SQuAD has one name for an article: lost is the title or the doc_id of "
            f"{count(others, 'passage')}."
        )
    notes += meta_not_held("SQuAD", "question", (e.meta for e in dataset.examples), _HELD)
    return notes + meta_not_held("SQuAD", "passage", (p.meta for p in passages), ("article",))


def _read_again(passage: Passage) -> tuple[str, str]:
    article = _article(passage)
    again = _passage({"context": passage.text}, article)
    return again.title, again.doc_id


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
