"""Cutting a passage into sentences and list lines, each exactly as it stands there."""

import re

_END = re.compile(r"(?<=[.!?])([\"')\]]*)\s+(?=[\"'(\[]*[A-Z0-9`])|\n+")
_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|vs|cf|approx|no|fig|dr|mr|mrs|ms|st|inc|ltd)|(?<!\d )\b[A-Z])\.$",
    re.IGNORECASE,
)
_STEP_NUMBER = re.compile(r"^\s*(?:\d+|[a-z])[.)]$")


def sentences(text: str) -> list[str]:
    """Return the sentences and lines of a text, in order, without the space around them.

    Abbreviations, initials and the numbers of list items do not end a sentence.
    """
    found: list[str] = []
    start = 0
    for match in _END.finditer(text):
        piece = text[start : max(match.end(1), match.start())].strip()
        line_break = "\n" in match.group()
        if _STEP_NUMBER.match(piece) or (not line_break and _ABBREVIATION.search(piece)):
            continue
        if piece:
            found.append(piece)
        start = match.end()
    last = text[start:].strip()
    return [*found, last] if last else found
