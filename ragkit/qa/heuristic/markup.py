"""Inline markup for the `heuristic` teacher: words without it that know their offsets.

Markdown, reST and HTML remains: emphasis, code spans, links, roles, footnote marks. Lines and
blocks are left to `page`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_MARKUP = re.compile(
    r":(?P<series>pep|rfc):`(?P<number>\d+)`"
    r"|(?P<code>(?::[a-z][\w:+-]{1,30}:)?(?P<ticks>``?)~?(?P<inner>[^`\n]{1,120}?)"
    r"(?:\s*<[^<>`\n]{1,200}>)?(?P=ticks)(?!`)(?:__?(?!\w))?)"
    r"|(?::[a-z][\w:+-]{1,30}:)?`(?P<linked>[^`<>]{1,120}?)\s*<[^<>`]{1,300}>`__?"
    r"|!?\[(?=[^\[\]]{1,200}\][(\[])|\](?:\([^)\s]{0,500}\)|\[[^\]\s]{0,80}\])"
    r"|<!--.{0,500}?-->|</?[a-zA-Z][^<>\n]{0,200}>"
    r"|\s?\[\d{1,3}(?:\s?[,–-]\s?\d{1,3}){0,12}\]_?|\s?\[[#*\w.-]{1,40}\]_(?!\w)"
    r"|\s?\([^()]{0,120}et al[^()]{0,120}\)"
    r"|(?<=\S)\*{1,3}|\*{1,3}(?=\S)|`+"
    r"|(?<!\w)_(?=[A-Za-z])|(?<!\w)__(?=[A-Za-z](?:[^_\n]*\s)?)|(?<=[a-z.])__?(?!\w)"
    r"|(?P<space>\s{2,}|[^\S ])|[\u200b-\u200f\u2060\ufeff]+",
    re.DOTALL,
)
_PERHAPS_MARKUP = re.compile(r"[`*_<\[\]\u200b-\u200f\u2060\ufeff]|\s\s|[^\S ]|:pep:|:rfc:|et al")
_CODE_SPAN = re.compile(r"(?P<ticks>`{1,2})[^`]{1,300}?(?P=ticks)(?!`)")
_ROLE = re.compile(r":[a-z][\w:+-]{1,30}:`|`__?(?!\w)|<https?:|\]_(?!\w)")
_LEFTOVER = re.compile(
    r"\]\(|\]\[|</?[a-zA-Z][^<>]*>|\*\*|`{3}|\||^#|\n#|https?://\S*$|&[a-z]{2,6};|\{\{"
    r"|(?<!\w)_\w+_(?!\w)|(?<!\w)\*\w[^*\n]*\w\*(?!\w)|(?m:^\s*\.\. )|::"
    r"|(?<!\w)_[a-z]+ |[a-z]_(?!\w)"
)


@dataclass(frozen=True, slots=True)
class Text:
    """Words without markup; `at[i]` is the offset in the passage of character i."""

    words: str
    at: tuple[int, ...]

    def cut(self, start: int, end: int) -> Text:
        """Return the words from start to end, outer blanks dropped."""
        piece = self.words[start:end]
        start += len(piece) - len(piece.lstrip())
        end -= len(piece) - len(piece.rstrip())
        return Text(self.words[start:end], self.at[start:end])


def flatten(raw: str, start: int, end: int) -> Text:
    """Return raw[start:end] without markup, its blanks collapsed."""
    if not _PERHAPS_MARKUP.search(raw, start, end):
        return Text(raw[start:end], tuple(range(start, end))).cut(0, end - start)
    words: list[str] = []
    at: list[int] = []

    def keep(i: int, j: int) -> None:
        words.append(raw[i:j].replace("\n", " "))
        at.extend(range(i, j))

    position = start
    for match in _MARKUP.finditer(raw, start, end):
        keep(position, match.start())
        if match["series"]:  # ":pep:`8`" reads "PEP 8"
            words.append(f"{match['series'].upper()} {match['number']}")
            begin, number = match.start(), match.start("number")
            at.extend((*range(begin, begin + 4), *range(number, match.end("number"))))
        elif match["code"]:
            keep(*match.span("inner"))
        elif match["linked"]:
            keep(*match.span("linked"))
        elif match["space"]:
            words.append(" ")
            at.append(match.start())
        position = match.end()
    keep(position, end)
    return Text("".join(words), tuple(at)).cut(0, len(at))


def offsets(text: Text) -> tuple[int, int]:
    """Return start and end of the text in the passage."""
    return (text.at[0], text.at[-1] + 1) if text.at else (0, 0)


def whole_code(raw: str, start: int, end: int) -> tuple[int, int]:
    """Widen a span of the raw text so that it cuts no code span in two."""
    if "`" not in raw[max(0, start - 2) : end + 2]:
        return start, end
    for match in _CODE_SPAN.finditer(raw, max(0, start - 400), min(len(raw), end + 400)):
        ticks = len(match["ticks"])
        inside = match.start() + ticks <= start and end <= match.end() - ticks
        if match.start() < end and match.end() > start and not inside:
            start, end = min(start, match.start()), max(end, match.end())
    return start, end


def has_markup(raw: str) -> bool:
    """Tell whether a span of the raw text would show markup or half of it, code spans aside."""
    if _ROLE.search(raw) or raw.count("[") != raw.count("]") or raw.count("`") % 2:
        return True
    prose = _CODE_SPAN.sub("x", raw)
    return bool(_LEFTOVER.search(prose) or len(re.findall(r"(?m)(?<!^)\*", prose)) % 2)
