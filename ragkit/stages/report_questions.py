"""Single questions in a report: those on which a system lost most, and all of them as a table."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ragkit.data.files import read_jsonl
from ragkit.evaluation.compare import losses
from ragkit.evaluation.report import changed_most
from ragkit.stages.evaluated import Systems
from ragkit.stages.report_runs import Reported, Texts

_TOP = 3  # passages of each side of a regression
_PASSAGE_CHARS = 700
_TEXT_CHARS = 400  # of a question or an answer in the table


def regressions(
    evaluated: Systems, table: Mapping[str, Any], leader: str, texts: Texts, most: int
) -> dict[str, Any] | None:
    """Return the questions on which the leader loses most, with what both systems made of them."""
    base, metric = table["baseline"], table["metrics"][0]
    if leader == base:
        return None
    sheets = [evaluated.sheets[name][metric] for name in (base, leader)]
    shared = sheets[0].keys() & sheets[1].keys()
    before, after = ({q: s for q, s in sheet.items() if q in shared} for sheet in sheets)
    lost = losses(before, after, len(before))
    items = [
        _regression(q, scores, [evaluated.records[n][q] for n in (base, leader)], texts)
        for q, *scores in lost[:most]
    ]
    return {"items": items, "names": (base, leader), "all": len(lost)} if items else None


def recorded_losses(
    runs: Iterable[Reported], table: Mapping[str, Any], leader: str, texts: Texts, most: int
) -> dict[str, Any] | None:
    """Return the regressions that a comparison wrote down, where the runs themselves are absent."""
    files = [run.path / "losses.jsonl" for run in runs]
    lost = [
        loss
        for file in files
        if file.exists()
        for loss in read_jsonl(file)
        if loss["system"] == leader and loss["baseline"] == table["baseline"]
    ]
    items = [
        _regression(
            loss["id"],
            list(loss["scores"].values()),
            [_as_record(loss, loss[side]) for side in ("before", "after")],
            texts,
        )
        for loss in lost[:most]
    ]
    names = (table["baseline"], leader)
    return {"items": items, "names": names, "all": None} if items else None


def _as_record(loss: Mapping[str, Any], made: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a comparison says of one side of a loss as the record that it came from."""
    more = {"answer": made["answer"]} if "answer" in made else {}
    return {**loss, **more, "top_ids": made["passage_ids"]}


def _regression(
    question: str, scores: Sequence[float], made: Sequence[Mapping[str, Any]], texts: Texts
) -> dict[str, Any]:
    record = made[0]
    right = record["positive_ids"]
    return {
        "id": question,
        "question": record["question"],
        "history": record.get("history") or [],
        "references": record.get("references", []),
        "scores": scores,
        "right": [_passage(p, right, texts) for p in right[:_TOP]],
        "sides": [_side(of, right, texts) for of in made],
    }


def _side(record: Mapping[str, Any], right: Sequence[str], texts: Texts) -> dict[str, Any]:
    """Return what a system made of a question: its answer, if it is one, and its first passages."""
    found = _found_ids(record)
    place = next((i for i, p in enumerate(found, start=1) if p in right), None)
    read = record.get("answer_passage_ids") or found[:_TOP]
    return {
        "answer": record.get("answer"),
        "failed": record.get("failed", False),
        "place": place,
        "looked": len(found),
        "passages": [_passage(p, right, texts) for p in read[:_TOP]],
    }


def _found_ids(record: Mapping[str, Any]) -> list[str]:
    """Return the ids of the passages that a system found first for a question."""
    if "top_ids" in record:
        return list(record["top_ids"])
    return [passage["id"] for passage in record["passages"]]


def _passage(passage_id: str, right: Sequence[str], texts: Texts) -> dict[str, Any]:
    passage = texts(passage_id)
    text = "" if passage is None else _shortened(passage.text, _PASSAGE_CHARS)
    title = "" if passage is None else passage.title
    return {"id": passage_id, "title": title, "text": text, "right": passage_id in right}


def _shortened(text: str, most: int) -> str:
    """Return a text in one line, with an ellipsis where it is longer than `most` characters."""
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[:most].rstrip()}…"


def table_of(
    evaluated: Systems,
    table: Mapping[str, Any],
    leader: str,
    ranks: Mapping[str, Mapping[str, int | None]],
    most: int,
) -> dict[str, Any]:
    """Return the questions for the table, those on which the leader changed most first."""
    names, metric = list(table["systems"]), table["metrics"][0]
    base, slices = table["baseline"], evaluated.slices
    before, after = evaluated.sheets[base][metric], evaluated.sheets[leader][metric]
    rest = [q for q in evaluated.asked if q not in after]
    order = [*changed_most(before, after), *rest][:most]
    rows = []
    for question in order:
        made = [evaluated.records[name][question] for name in names]
        scores = [evaluated.sheets[name][metric].get(question) for name in names]
        row = {
            "id": question,
            "q": _shortened(made[0]["question"], _TEXT_CHARS),
            "doc": made[0]["document"],
            "in": [i for i, of in enumerate(slices.values()) if question in of],
            "pos": made[0]["positive_ids"],
            "s": [None if s is None else round(s, 4) for s in scores],
            "r": [ranks.get(name, {}).get(question) for name in names],
        }
        if evaluated.kind == "answers":
            row["ref"] = [_shortened(text, _TEXT_CHARS) for text in made[0]["references"]]
            row["a"] = [
                _shortened("(no answer)" if of.get("failed") else of["answer"], _TEXT_CHARS)
                for of in made
            ]
        rows.append(row)
    return {
        "kind": evaluated.kind,
        "systems": names,
        "baseline": names.index(base),
        "leader": names.index(leader),
        "ranked": [name in ranks for name in names],
        "slices": list(slices),
        "all": len(evaluated.asked),
        "rows": rows,
    }
