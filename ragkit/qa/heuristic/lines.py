"""Which lines of a page are prose, for the `heuristic` teacher: code and apparatus are left out.

Left out are fenced, indented and doctest code, reST directives, comments and field lists, tables
drawn with "====", mail-like headers, and lines that can only be code. What the others are is
left to `page`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

Span = tuple[int, int]

_FENCE = re.compile(r"\s*(?:```|~~~)(?P<info>.*)")
_RULE = re.compile(r"\s*[-=~^_*#|:+ ]{3,}\s*$")
_SIMPLE_TABLE = re.compile(r"\s*=+(?:\s+=+)+\s*$")
_DIRECTIVE = re.compile(r"\s*\.\.(?:\s+\S|\s*$)")
_FIELD = re.compile(r"\s*:[A-Za-z][\w .*-]{0,40}:(?:\s|$)(?!`)")
_HEADER = re.compile(r"[A-Z][\w-]{1,30}:\s+\S")
_BULLET = re.compile(r"\s*(?:\(?\d{1,2}[.)]|[-*+•])\s+\S")
_CODE_LINE = re.compile(
    r"\s*(?://|/\*|>>> |\.\.\. |\$ |#include\b|#define\b|#!|"
    r"(?:async )?(?:def|class) \w+\W.*:\s*(?:#.*)?$|(?:from [\w.]+ )?import [\w.*, ]+$|"
    r"@\w[\w.]*(?:\(.*)?$|"
    r"- \w*_\w*:|"
    r"(?:return|func|typedef|struct|static|const|var|let)\b.*[;{(]\s*$|[\w.\[\]\"', ]+ = \S|"
    r"[\w-]+:\s*(?:[|>\[{].*)?$(?<=[|>\]}])|[\])}]+[;,]?\s*$)"
    r"|.*(?:[{;]|\)\s*->.*:|\\)\s*$"
)
_INLINE_BREAK = re.compile(r"[^\S\n]{2,}(?=[A-Z“])")
_WRAPPED_WIDTH = 100  # a text of several lines, none longer, was wrapped by its author


def prose(raw: str) -> Iterator[tuple[int, int, bool]]:
    """Yield (start, end, gap) of the lines of prose; gap: something was left out before."""
    spans = _lines(raw)
    fences = [m for a, b in spans if (m := _FENCE.match(raw, a, b))]
    fenced = len(fences) % 2 == 1 and not fences[0]["info"].strip()
    gap, code_indent, aside_indent, table = True, -1, -1, False
    header = _header_lines(raw, spans)
    for number, (start, end) in enumerate(spans):
        line = raw[start:end]
        if _FENCE.match(line):
            fenced, gap = not fenced, True
            continue
        if fenced or number < header:
            continue
        if not line.strip():
            gap, table = True, False
            continue
        indent = len(line) - len(line.lstrip())
        if _SIMPLE_TABLE.match(line):
            table, gap = True, True
            continue
        if aside_indent >= 0 and indent > aside_indent:
            continue
        aside_indent = -1
        if _DIRECTIVE.match(line) or _FIELD.match(line):
            aside_indent, gap = indent, True
            continue
        if (0 <= code_indent < indent) or table or _RULE.match(line):
            gap = True
            continue
        code_indent = -1
        indented = gap and indent >= 4 and not _BULLET.match(line)
        if indented or "\t" in line[:1] or ("|" not in line and _CODE_LINE.match(line)):
            gap = True
            continue
        yield start, end, gap
        gap = False
        if line.rstrip().endswith("::"):
            code_indent = indent


def _header_lines(raw: str, spans: list[Span]) -> int:
    """Count the lines of a mail-like header ("Author: ...") at the top, its wrapped lines too."""
    count = fields = 0
    for start, end in spans:
        line = raw[start:end]
        if _HEADER.match(line):
            fields += 1
        elif not (fields and line[:1].isspace() and line.strip()):
            break
        count += 1
    return count if fields >= 4 else 0


def _lines(raw: str) -> list[Span]:
    """Return the lines; help-centre texts, whose line breaks were lost, break at double blanks."""
    spans: list[Span] = []
    lines, start = raw.split("\n"), 0
    wrapped = len(lines) > 2 and max(map(len, lines)) <= _WRAPPED_WIDTH
    for line in lines:
        end, begin = start + len(line), start
        if "|" not in line and not wrapped:
            for match in _INLINE_BREAK.finditer(raw, start, end):
                if raw[begin : match.start()].strip():
                    spans.append((begin, match.start()))
                    begin = match.end()
        spans.append((begin, end))
        start = end + 1
    return spans
