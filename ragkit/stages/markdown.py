"""A comparison as a Markdown page: for pull requests, wikis and docs/results.md."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ragkit.stages.tables import Cell, Table

_LONGEST = 300  # characters of an answer in a table


def comparison_page(
    tables: Iterable[Table], gates: Sequence[Mapping[str, Any]], lost: Sequence[Mapping[str, Any]]
) -> str:
    """Return the gates, the tables, and the questions that lost."""
    parts = []
    if gates:
        rows = {
            f"{g['system']}: {g['gate']}": ["yes" if g["passed"] else "**no**", g["said"]]
            for g in gates
        }
        parts += ["Gates\n", _lines(["holds", "difference from the baseline"], rows)]
    for table in tables:
        text = difference if table.paired else _mean
        rows = {n: [text(r.get(c)) for c in table.columns] for n, r in table.rows.items()}
        parts += [table.title.replace("*", "\\*") + "\n", _lines(table.columns, rows)]
    for name in dict.fromkeys(record["system"] for record in lost):
        own = [record for record in lost if record["system"] == name]
        parts.append(f"Where {name} lost most ({own[0]['metric']}, from {own[0]['baseline']})\n")
        columns = ["score", "reference", own[0]["baseline"], name]
        rows = {_cell(f"{r['question']} ({r['id']})"): _loss(r) for r in own}
        parts.append(_lines(columns, rows))
    return "\n".join(parts)


def difference(cell: Cell | None) -> str:
    """Return `+0.041 (+0.012 to +0.070) *`, the star where the interval excludes 0."""
    if cell is None:
        return ""
    if cell["ci95"] is None:
        return f"{cell['mean']:+.3f}"
    low, high = cell["ci95"]
    star = " \\*" if low > 0 or high < 0 else ""
    return f"{cell['mean']:+.3f} ({low:+.3f} to {high:+.3f}){star}"


def _mean(cell: Cell | None) -> str:
    """Return `0.812 (0.780 to 0.842)`."""
    if cell is None:
        return ""
    if cell["ci95"] is None:
        return f"{cell['mean']:.3f}"
    low, high = cell["ci95"]
    return f"{cell['mean']:.3f} ({low:.3f} to {high:.3f})"


def _loss(record: Mapping[str, Any]) -> list[str]:
    """Return the cells of a question: scores, what was to be found, what was found by both."""
    scores = f"{record['scores']['before']:.3f} → {record['scores']['after']:.3f}"
    if "answer" in record["before"]:
        said = [_cell(record[side]["answer"] or "(nothing)") for side in ("before", "after")]
        return [scores, _cell(" / ".join(record["references"]) or "(no answer)"), *said]
    gold = record["positive_ids"]
    return [
        scores,
        _cell(", ".join(gold)),
        *(_place(record[side], gold) for side in ("before", "after")),
    ]


def _place(made: Mapping[str, Any], gold: Sequence[str]) -> str:
    """Return where the first positive is, and what is first where that is another passage."""
    found = made["passage_ids"]
    place = next((i for i, p in enumerate(found, start=1) if p in gold), None)
    first = f"; first: {found[0]}" if found and place != 1 else ""
    return _cell((f"at {place}" if place else f"not in the first {len(found)}") + first)


def _cell(text: str) -> str:
    """Return a text as the cell of a table: one line, not too long, no bars."""
    text = " ".join(text.split()).replace("|", "\\|")
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _lines(columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows.items()]
    return "\n".join(lines) + "\n"
