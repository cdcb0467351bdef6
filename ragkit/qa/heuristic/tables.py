"""The `heuristic` teacher's questions from tables: the cell of a row and a column.

A table is asked about only where its header is known; a piece of one that was cut off is not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ragkit.qa.heuristic import patterns as grammar
from ragkit.qa.heuristic.markup import offsets
from ragkit.qa.heuristic.page import Block, Draft, Passage

# of a column: "required", "used by", "can change"
_NO_NOUN = re.compile(
    r"^\S+(?:ed|able|ing)$|^(?:can|may|must|has|is|are|used|reported|needs?)\b| (?:by|to|in|for)$"
)


def from_rows(passage: Passage) -> Iterator[Draft]:
    """Ask for each cell of a table by its row's key and its column."""
    header: Block | None = None
    for number, block in enumerate(passage.blocks):
        if block.kind != "row":
            header = None
        elif number == 0 or passage.blocks[number - 1].kind != "row":
            header = block if _is_header(passage, number) else None
        elif header and len(block.cells) == len(header.cells):
            for name, cell in zip(header.cells[1:], block.cells[1:], strict=True):
                key = _row_key(block.cells[0].words, header.cells[0].words)
                if key and name.words and re.search(r"\w", cell.words):
                    yield Draft(_cell_question(name.words.lower(), key), *offsets(cell), "table")


def _is_header(passage: Passage, number: int) -> bool:
    """Tell a table's first row; one with edges that no line of dashes follows was cut off."""
    block = passage.blocks[number]
    named = all(
        re.fullmatch(
            r"[^\W\d](?:[^\W\d]|"
            r"[ /&._()-]){0,32}",
            cell.words,
        )
        for cell in block.cells
    )
    start = block.text.at[0]
    edged = "|" in passage.text[passage.text.rfind("\n", 0, start) + 1 : start + 1]
    ruled = number + 1 < len(passage.blocks) and passage.blocks[number + 1].gap
    return named and len(block.cells) > 1 and (ruled or not edged)


def _row_key(key: str, column: str) -> str:
    """Return what a row is called: its first cell, a bare number with its column; "" for signs."""
    if not re.search(r"[^\W\d_]", key) and re.fullmatch(r"[\d.]+", key):
        return f"{column.lower()} {key}"
    return key if 0 < len(key) < 60 and re.match(r"[`\w].*[^\W\d_]|[^\W\d_]", key) else ""


def _cell_question(column: str, key: str) -> str:
    """Ask for a cell by its column: meanings, uses and types in their own words."""
    if column in ("meaning", "means", "definition"):
        return f"What does {key} mean?"
    if column in ("description", "explanation"):
        return (
            f"What is {key}?" if re.search(r"[_.-]|^[a-z]", key) else f"What does {key} describe?"
        )
    if column in ("purpose", "use", "usage"):
        return f"What is {key} used for?"
    if column == "type":
        return f"What type is {key}?"
    if _NO_NOUN.search(column):
        return f'What is given as "{column}" for {key}?'
    plural = any(grammar.is_plural(word) for word in column.split(" of ", 1)[0].split())
    return f"What {'are' if plural else 'is'} the {column} of {key}?"
