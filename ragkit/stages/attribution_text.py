"""What `ragkit attribute` says on the terminal: the grid, its differences and the reasons."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Table as RichTable

from ragkit.evaluation.attribution import Reason
from ragkit.stages.tables import Table

_TO_DO = {
    Reason.DISAGREEMENT: "read some: the metric or the judge is mistaken",
    Reason.ANSWERED: "let the answerer abstain (min_score, prompt, training)",
    Reason.NOT_IN_CORPUS: "add documents, or name the passages that answer",
    Reason.NOT_RETRIEVED: "train the retriever, or raise n_passages",
    Reason.REFUSED: "let the answerer abstain less (min_score, prompt, training)",
    Reason.UNUSED: "train the answerer on retrieved passages, or lower n_passages",
    Reason.MISUSED: "train the answerer; read some: is the reference the only right answer?",
}
_KINDS = {
    "retriever": "What another retriever brings",
    "answerer": "What another answerer brings",
    "both": "What both bring together",
    "ceiling": "What is left to gain by retrieval: gold passages instead of the retrieved",
}
_LONGEST = 300


def told(result: Mapping[str, Any], wrong: Sequence[Mapping[str, Any]]) -> Iterator[RenderableType]:
    """Yield the parts of what is shown.

    result: attribution.json
    wrong: the lines of attribution.jsonl
    """
    yield _grid(result)
    yield from _differences(result)
    yield from _reasons(result, wrong)


def _grid(result: Mapping[str, Any]) -> RenderableType:
    """Return the table of the cells, a row a retriever, a column an answerer."""
    metric = result["metric"]
    rows: dict[str, dict[str, Any]] = {}
    for name, metrics in result["cells"].items():
        *retriever, answerer, _ = name.split(" | ")
        if metric in metrics:
            rows.setdefault(_passages(retriever), {})[answerer] = metrics[metric]
    columns = list(dict.fromkeys(answerer for row in rows.values() for answerer in row))
    title = f"{metric} by the passages' retriever (rows) and the answerer (columns)"
    return Table(title, columns, rows).printed()


def _differences(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield the differences as sentences, under a line a kind."""
    for kind, heading in _KINDS.items():
        found = [d for d in result["differences"].values() if d["kind"] == kind]
        if found:
            yield f"{heading} ({result['metric']}, paired):"
            yield from (f"  {_sentence(difference)}" for difference in found)
    yield ""


def _sentence(difference: Mapping[str, Any]) -> str:
    *old, answerer, _ = difference["before"].split(" | ")
    *new, other, _ = difference["after"].split(" | ")
    told_of = {
        "retriever": f"{_passages(new)} instead of {_passages(old)}, with {answerer}",
        "answerer": f"{other} instead of {answerer}, with {_passages(old)}",
        "both": f"{_passages(new)} with {other} instead of {_passages(old)} with {answerer}",
        "ceiling": f"{_passages(old)} with {answerer}",
    }
    return f"{told_of[difference['kind']]}: {difference['mean']:+.3f} ({_sureness(difference)})"


def _passages(retriever: Sequence[str]) -> str:
    return retriever[0] if retriever else "gold passages"


def _sureness(difference: Mapping[str, Any]) -> str:
    if difference["ci95"] is None:
        return "one document: no interval"
    low, high = difference["ci95"]
    shown = low > 0 or high < 0
    said = f"95% interval {low:+.3f} to {high:+.3f}"
    return said if shown else f"{said}: not shown to differ"


def _reasons(
    result: Mapping[str, Any], wrong: Sequence[Mapping[str, Any]]
) -> Iterator[RenderableType]:
    """Yield the table of reasons, and an example of each."""
    rule = f"{result['metric']} below {result['threshold']:g}"
    asked = result["questions"]["all"]
    if not wrong:
        yield f"{result['system']}: none of {asked} answers is wrong ({rule})"
        return
    yield f"Why {len(wrong)} of {asked} answers of {result['system']} are wrong ({rule}):"
    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("reason", "answers", "share", "what to do"):
        table.add_column(column, justify="right" if column in ("answers", "share") else "left")
    for reason, count in result["reasons"].items():
        table.add_row(reason, str(count), f"{count / len(wrong):.0%}", _TO_DO[Reason(reason)])
    yield table
    if failed := result["questions"]["failed"]:
        yield f"without an answer, and neither right nor wrong: {failed}\n"
    if unfound := [line["rank"] for line in wrong if line["reason"] == Reason.NOT_RETRIEVED]:
        yield f"{Reason.NOT_RETRIEVED}: {_depths(unfound, result['n_passages'])}\n"
    for reason in result["reasons"]:
        yield from _example(next(line for line in wrong if line["reason"] == reason))


def _depths(ranks: Sequence[int | None], n_passages: int) -> str:
    """Say how much deeper than `n_passages` the answers were: what more passages would bring."""
    near = sum(rank is not None and rank <= max(10, 2 * n_passages) for rank in ranks)
    missed = sum(rank is None for rank in ranks)
    return (
        f"of {len(ranks)} the passage is at ranks {n_passages + 1} to {max(10, 2 * n_passages)} "
        f"for {near}, deeper for {len(ranks) - near - missed}, and not found for {missed}"
    )


def _example(line: Mapping[str, Any]) -> Iterator[str]:
    """Yield one wrong answer, beside what was expected."""
    yield f"{line['reason']}, for example {line['id']}: {_short(line['question'])}"
    yield f"  answer: {'(abstained)' if line['abstained'] else _short(line['answer'])}"
    if line["references"]:
        yield f"  expected: {_short(line['references'][0])}"
    if line["positive_ids"]:
        where = f"found at rank {line['rank']}" if line["rank"] else "not found"
        yield f"  passage that answers it: {where}"
    yield ""


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
