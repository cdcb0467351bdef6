"""Tasks that lists and tables give: their items, the order of steps, entries, cells.

For `reading`, which words the prompts. A list counts only where it is whole: of one level, nothing
between its items, its last item not cut.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from ragkit.qa.heuristic import page
from ragkit.qa.heuristic import patterns as grammar
from ragkit.qa.heuristic.markup import Text
from ragkit.qa.heuristic.page import Block
from ragkit.qa.reading_sentences import Draft, fits, is_english, stands_alone, statement

MAX_LIST_CHARS = 700
_ENTRY = re.compile(r"(?P<key>[^:–—]{2,40}?)(?:: | [–—-] )(?P<value>[^:–—]{15,250})")


def from_lists(text: str, blocks: list[Block], rng: random.Random) -> Iterator[Draft]:
    """The items of a list, the order of steps, and what an entry is described by."""
    for intro, run in _runs(text, blocks):
        items = [block.text.words for block in run]
        if not all(fits(item, 2, 250) for item in items) or len(set(items)) < len(items):
            continue
        steps = run[0].kind == "step" and sum(map(grammar.imperative, items)) > len(items) / 2
        if steps and len(items) > 2:
            mixed = sorted(items, key=lambda _: rng.random())
            mixed = mixed[::-1] if mixed == items else mixed
            answer = "\n".join(f"{i}. {item}" for i, item in enumerate(items, 1))
            yield Draft("order", "\n".join(f"- {item}" for item in mixed), answer, items[0])
            i = rng.randrange(len(items) - 1)
            yield Draft("next", items[i], items[i + 1], items[0])
        if intro and stands_alone(intro) and sum(map(len, items)) < MAX_LIST_CHARS:
            yield Draft("list", intro, "\n".join(f"- {item}" for item in items), items[0])
        pairs = [_ENTRY.fullmatch(item) for item in items]
        for pair in pairs:
            if not pair or not all(pairs) or pair["value"].count(" ") < 3:
                continue
            if pair["key"].lower() in pair["value"].lower():
                continue
            yield Draft("term", pair["value"], pair["key"].strip(), pair["value"])
            others = [p["value"] for p in pairs if p and p["value"] != pair["value"]]
            if others:
                wrong = f"{pair['key']}: {rng.choice(others)}"
                yield statement(f"{pair['key']}: {pair['value']}", wrong, rng)


def _runs(text: str, blocks: list[Block]) -> Iterator[tuple[str, list[Block]]]:
    """Yield whole lists of one level, each with the line that ends in ":" before it, or ""."""
    i = 0
    while i < len(blocks):
        run = [blocks[i]]
        while i + len(run) < len(blocks) and blocks[i + len(run)].kind == run[0].kind:
            run.append(blocks[i + len(run)])
        before = page.sentences(blocks[i - 1].text)[-1].words if i else ""
        intro = before if before.endswith(":") and fits(before[:-1], 12, 200) else ""
        i += len(run)
        after = text[run[-1].text.at[-1] + 1 :].lstrip("`*_)\"'")
        level = {_indent(text, block) for block in run}
        broken = re.match(r"\s*\n(?:[ \t]+\S|\s*(?:```|~~~))", after) or (
            run[-1].text.words[-1] not in ".!?)" and not after.strip()
        )
        if run[0].kind in ("item", "step") and 2 <= len(run) <= 12 and len(level) == 1:
            inner = text[run[0].text.at[0] : run[-1].text.at[-1]]
            if not broken and not re.search(r"```|~~~|\n {4}", inner):
                yield (intro if is_english(intro) else ""), run


def _indent(text: str, block: Block) -> int:
    line = text[text.rfind("\n", 0, block.text.at[0]) + 1 : block.text.at[0]]
    return len(line) - len(line.lstrip())


def from_tables(blocks: list[Block], rng: random.Random) -> Iterator[Draft]:
    """Cells named by column and row; a statement with the cell of another row is false."""
    header: Block | None = None
    rows: list[Block] = []
    for block in [*blocks, Block("text", Text("", ()))]:
        if block.kind == "row" and header and len(block.cells) == len(header.cells):
            rows.append(block)
            continue
        if header and len(rows) > 1:
            yield from _cells(header, rows, rng)
        header, rows = block if block.kind == "row" else None, []


def _cells(header: Block, rows: list[Block], rng: random.Random) -> Iterator[Draft]:
    names = [cell.words for cell in header.cells]
    keys = [row.cells[0].words for row in rows]
    if len(set(keys)) < len(keys) or not all(
        re.fullmatch(r"[A-Za-z][\w /-]{1,30}", x) for x in names
    ):
        return
    for column, name in list(enumerate(names))[1:]:
        cells = [row.cells[column].words for row in rows]
        for key, cell in zip(keys, cells, strict=True):
            asked = f"{name.lower()} of {key}"
            if not (fits(key, 1, 60) and fits(cell, 1, 80) and re.search(r"\w", cell)):
                continue
            yield Draft("cell", asked, cell, asked)
            if others := [c for c in cells if c != cell and fits(c, 1, 80)]:
                right, wrong = (f"The {asked} is {c}." for c in (cell, rng.choice(others)))
                yield statement(right, wrong, rng)
