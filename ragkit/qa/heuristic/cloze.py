"""The `heuristic` teacher's questions from plain statements: when, where, how, what; then a gap.

What is left once the rules for definitions, numbers, conditions and the like have had their turn.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ragkit.qa.heuristic import page, wording
from ragkit.qa.heuristic import patterns as grammar
from ragkit.qa.heuristic.page import Draft, Passage, Text
from ragkit.qa.heuristic.patterns import Clause

NUMBER = (
    r"(?:[$€£]\s?)?(?:\d[\d,.–-]*\d|\d|(?:two|three|four|five|six|seven|eight|nine|ten|twelve)"
    r"(?=[ -]))(?:\s?%| percent)?"
)
ABOUT = (
    r"(?:about|approximately|around|nearly|over|only|at least|at most|up to|more than|less than)"
)
AMOUNT = rf"(?:{ABOUT} )?{NUMBER}(?: (?:to|or) {NUMBER})?"
PERIOD = (
    r"(?:(?:business|working|calendar) )?"
    r"(?:seconds?|minutes?|mins?|hours?|days?|weeks?|months?|years?|h)"
)
_WHEN_WHERE = (
    ("How long", rf"for (?:{AMOUNT}) {PERIOD}"),
    ("How soon", rf"within (?:{AMOUNT}) {PERIOD}"),
    (
        "How often",
        rf"(?:every (?:{AMOUNT} )?{PERIOD}|once (?:a|per) {PERIOD}|daily|weekly|monthly)",
    ),
    (
        "When",
        r"(?:in|on|since|until|by) (?:[A-Z][a-z]+ )?(?:\d{1,2},? )?(?:[A-Z][a-z]+ )?(?:19|20)\d\d",
    ),
    ("When", r"(?:when|once|after|before|as soon as|until) [^,;]+"),
    (
        "Where",
        r"(?:in|at|from|under|on) (?:the |your )?(?:[“\"]?[A-Z][\w’'”\"-]+ ?){1,5}"
        r"(?:page|tab|section|menu|settings|portal)",
    ),
    ("Where", r"(?:in|at) (?:the )?[A-Z][\w’'-]+(?:,? [A-Z][\w’'-]+){0,4}"),
    ("How", r"(?:by|using|by using|by means of|through) .+"),
)


def adverbials(sentence: Text, found: Clause) -> Iterator[Draft]:
    """Ask how long, when, where or how, of the phrase that ends a statement."""
    if (
        found.rest.startswith(("not ", "be "))
        or re.match(r"(?:an?|the)\b", found.rest)
        and not found.verb
    ):
        return
    for wh, phrase in _WHEN_WHERE:
        match = re.search(rf" ({phrase})$", found.rest)
        if not match or match.start() < 4 or re.search(r"[,;:(]", found.rest[: match.start()]):
            continue
        if re.search(r"\b(?:because|which|that)\b", found.rest[: match.start()]):
            continue
        kept = found.rest[: match.start()]
        if wh == "How" and (match[1].startswith("by ") and not re.match(r"by \w+ing\b", match[1])):
            if kept.count(" ") > 3:
                continue
            wh, kept = "What", f"{kept} by"
        start = found.rest_start + match.start(1) + (3 if kept.endswith(" by") else 0)
        reply = sentence.cut(start, found.rest_start + len(found.rest))
        span = page.span(reply.cut(0, boundary(reply.words)))
        numeric = wh in ("How long", "How soon", "How often")
        yield Draft(
            wording.ended(found.ask(wh, kept)), *span, "number" if numeric else "cloze", 1.0
        )
        return


_PHRASAL_VERBS = frozenset(grammar.word_list("depend lead consist belong contribute apply"))
_PHRASAL = re.compile(r"(?:on|to|in|of|from|with|for|by|as)\b ")
_BOUNDARY = re.compile(
    r"(?:, (?:which|and|but|while|where|so|with)|;| because| when| if| whereas"
    r"| and (?:I|we|they|it|you)| and \w+ (?:was|were)|, \w+ (?:was|were|is|are)) "
)
_PREDICATE = re.compile(
    r"(used|required|needed|designed|responsible|useful|suitable|optimized|available|based|"
    r"located|composed|associated|derived|intended) (to|for|on|of|with|from|in) "
)
_MODALS = frozenset(("can", "could", "will", "would", "may", "might", "must", "should"))
_STRANDED = re.compile(
    r"((?:(?:also|mainly|not|then|be|been|\w+ly) )*(?:\w+ed|found|made|built|written|known|"
    r"taken|given|shown|"
    r"subject|similar|equal|equivalent|due|consistent|compatible)"
    r" (?:to|for|on|with|from|as|into|by|against)) "
    r"(?!be |do |have |\w+ing |(?:show|get|make|ensure|determine|identify|help|provide|allow)\b)"
)
_NOUN_AHEAD = re.compile(r"(?:an?|the|all|each|any|both|your)\b|[A-Z\d]|\w+s\b")
_FAINT = frozenset(
    grammar.word_list(
        "play have take make get give let go keep hold show see work run set need tell"
    )
)


def objects(sentence: Text, found: Clause, tail: str) -> Iterator[Draft]:
    """Ask for the object: "What does X support?", "What must X be?"."""
    rest = found.rest
    if rest.count(" ") < 1 or rest.startswith("not "):
        return
    end = boundary(rest)
    if found.verb and found.verb.split()[-1] not in _FAINT:
        phrasal = _PHRASAL.match(rest)
        skip = phrasal.end() if phrasal else 0
        if not phrasal and not re.match(r"(?:an?|the|your|\w+s\b|[A-Z]|\w+ \w+)", rest):
            return
        if phrasal and found.verb not in _PHRASAL_VERBS:
            return
        if m := re.match(r"(?:you|users|us) to (?=\w)", rest):
            question = f"What {found.auxiliary} {found.subject} {found.verb} me to do?"
            skip, end = m.end(), max(end, m.end() + 1)
        else:
            question = found.ask("What", rest[:skip].strip())
        start = found.rest_start + skip
        yield Draft(
            wording.ended(question, tail),
            *page.span(sentence.cut(start, found.rest_start + end)),
            "cloze",
        )
    elif match := _PREDICATE.match(rest):
        if match[2] == "to" and match[1] in ("available", "responsible", "associated"):
            return
        asked = f"{match[1]} {'for' if match[2] == 'to' else match[2]}"
        wh = "Where" if match[1] == "located" else "What"
        asked = match[1] if wh == "Where" else asked
        start = found.rest_start + (match.start(2) if match[2] == "to" else match.end())
        yield Draft(
            wording.ended(found.ask(wh, asked), tail),
            *page.span(sentence.cut(start, found.rest_start + end)),
            "cloze",
            0.5,
        )
    elif match := _STRANDED.match(rest):
        if match[1].endswith(" to") and not _NOUN_AHEAD.match(rest, match.end()):
            return
        start = found.rest_start + match.end()
        yield Draft(
            wording.ended(found.ask("What", match[1]), tail),
            *page.span(sentence.cut(start, found.rest_start + end)),
            "cloze",
        )
    elif match := re.match(r"((?:\w+ly |also )?(\w+)) (?=(?:an?|the|your|all|\d)\b|\w+s\b)", rest):
        perfect = found.finite in ("has", "have", "had") and grammar.is_past(match[2])
        modal = found.finite.lower() in _MODALS and match[2] in grammar.BASES
        if (perfect or modal) and match[2] not in _FAINT:
            yield Draft(
                wording.ended(found.ask("What", match[1]), tail),
                *page.span(sentence.cut(found.rest_start + match.end(), found.rest_start + end)),
                "cloze",
            )
    elif found.finite in ("must", "MUST", "should", "SHOULD") and re.match(
        r"be (?!\w+(?:ed|en)\b|made|set|sent)", rest
    ):
        yield Draft(
            wording.ended(f"What {found.auxiliary} {found.subject} be", tail),
            *page.span(sentence.cut(found.rest_start + 3, found.rest_start + end)),
            "cloze",
        )


def boundary(rest: str) -> int:
    """Return where the first clause of a predicate ends."""
    match = _BOUNDARY.search(rest)
    return match.start() if match and match.start() >= 4 else len(rest)


def subjects(sentence: Text, found: Clause, tail: str) -> Iterator[Draft]:
    """Ask for the subject: "What plays a crucial role in ...?"."""
    plural = found.auxiliary in ("are", "were", "do", "have") or found.subject == "I"
    rest = found.rest[: boundary(found.rest)]
    if (
        found.verb in ("mean", "refer")
        or re.match(r"(?:one|to|whether|that|no longer|not|be) ", rest)
        or (found.finite in ("is", "was") and re.match(r"an? ", rest))
    ):
        return
    if plural or rest.count(" ") < 4 or re.match(r"(?:the|an?) \w+$|you\b", found.subject):
        return
    question = wording.ended(f"What {found.finite} {rest}", tail)
    yield Draft(question, *page.span(sentence.cut(0, found.subject_end)), "cloze", -1.0)


def gaps(passage: Passage) -> Iterator[Draft]:
    """Blank out a name, a number or the last words of a sentence: the last resort."""
    for block in passage.blocks:
        if block.kind not in ("text", "item"):
            continue
        for sentence in page.sentences(block.text):
            words = sentence.words
            if not 6 <= words.count(" ") + 1 <= 29 or not page.whole(words):
                continue
            named = re.finditer(
                rf"(?<=[a-z,] )(?:{NUMBER}(?: [a-z]+)?|[A-Z][\w-]+(?: [A-Z][\w-]+)*)(?=[ .,])",
                words,
            )
            last = re.finditer(r"(?<=[a-z] )(?:[\w-]{4,} )?[\w-]{4,}(?=[.!]$)", words)
            for match in [m for m in (*last, *named) if m.start() > 15][-1:]:
                question = f"Complete: {words[: match.start()]}____{words[match.end() :]}"
                span = page.span(sentence.cut(match.start(), match.end()))
                yield Draft(question, *span, "cloze", -2.0 - wording.is_unclear(words))
