"""The `heuristic` teacher's questions from plain statements: when, where, how, what; then a gap.

What is left once the rules for definitions, numbers, conditions and the like have had their turn.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ragkit.qa.heuristic import page, topic, verbs, wording
from ragkit.qa.heuristic import patterns as grammar
from ragkit.qa.heuristic.markup import Text, offsets
from ragkit.qa.heuristic.page import Draft, Passage
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
        modal = kept.split(" ", 1)[0] in verbs.BASES
        if not (found.verb or modal or _PARTICIPLE.match(kept)):
            continue
        passive = found.auxiliary in ("is", "are", "was", "were") or kept.startswith("be ")
        if wh == "Where" and not (found.subject == "I" or (passive and kept.count(" ") < 6)):
            continue
        if re.search(r" and \w+s\b", kept):
            continue
        if re.search(r"\b(?:either|both|it|and|or|than)$", kept) or grammar.ends_open(kept):
            continue
        if wh == "How" and (match[1].startswith("by ") and not re.match(r"by \w+ing\b", match[1])):
            if kept.count(" ") > 3 or found.verb:
                continue
            wh, kept = "What", f"{kept} by"
        start = found.rest_start + match.start(1) + (3 if kept.endswith(" by") else 0)
        reply = sentence.cut(start, found.rest_start + len(found.rest))
        span = offsets(reply.cut(0, boundary(reply.words)))
        numeric = wh in ("How long", "How soon", "How often")
        yield Draft(
            wording.ended(found.ask(wh, kept)), *span, "number" if numeric else "cloze", 1.0
        )
        return


_PARTICIPLE = re.compile(
    r"(?:(?:not|also|only|be|been|\w+ly) )*\w+(?:ed|en|wn|ne|lt|nt|pt|de|ad|ut|et|ld|ng)\b|\w+$"
)
_PHRASAL_VERBS = frozenset(verbs.word_list("depend lead consist belong contribute apply"))
_PHRASAL = re.compile(r"(?:on|to|in|of|from|with|for|by|as)\b ")
_BOUNDARY = re.compile(
    r"(?:, (?:which|but|while|where|whereas|so|with|as|since|because|although|though|thus|e\.g\.|"
    r"i\.e\.|not|then|rather|instead|even|making|allowing|using)|;|:| because| since| when| if|"
    r" unless"
    r"| whereas| – | — | --"
    r"|,? (?:and|but|or) (?:I|we|they|it|you|this|that|these|there|thus|so|then|therefore|also|"
    r"only|"
    r"not|is|are|was|were|will|can|may|must|should|has|have|does|do|if|when)"
    r"|,? and (?:the |an? |its |their )?(?:[\w-]+ ){1,3}?(?:is|are|was|were|will|can|may|must|"
    r"should|has|"
    r"have|does|do)|,? and \w+s (?:a|an|the|its|it)|, \w+ (?:was|were|is|are)) "
)
_PREDICATE = re.compile(
    r"(used|required|needed|designed|responsible|useful|suitable|optimized|available|based|"
    r"located|composed|associated|derived|intended) (to|for|on|of|with|from|in) "
)
_NO_PREDICATE = re.compile(
    r"(?:via|through|using|like|if|because|[a-z]+ \w+ing|the|new|normal|fine|ok|nice|easy|hard|"
    r"true|false|possible|clear|"
    r"unclear|ambiguous|likely|"
    r"unlikely|up to|part of|by|in|on|at|of|"
    r"from|"
    r"for|with|as|about)\b"
)
_PERSON = r"[A-Z][\w.]+(?: (?:[a-z]{2,3} )?[A-Z][\w.-]+){0,2}"
_PERSONAL = re.compile(
    r"(?:accept|propos|suggest|implement|design|point|report|approv|reject|creat|produc|develop|"
    r"start|"
    r"found|"
    r"contribut|maintain|publish|review)ed$|^(?:wrote|led|gave|said|made|built|took|began)$"
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
    verbs.word_list("play have take make get give let go keep hold show see work run set need tell")
)


def objects(sentence: Text, found: Clause, tail: str) -> Iterator[Draft]:
    """Ask for the object: "What does X support?", "What must X be?"."""
    rest = found.rest
    if rest.count(" ") < 1 or rest.startswith(("not ", "since ")):
        return
    if found.subject == "I" and found.auxiliary == "did":
        return
    end = boundary(rest)
    if found.verb and found.verb.split()[-1] not in _FAINT:
        phrasal = _PHRASAL.match(rest)
        skip = phrasal.end() if phrasal else 0
        if not phrasal and not re.match(r"(?:an?|the|your|\w+s\b|[A-Z]|\w+ \w+)", rest):
            return
        if phrasal and found.verb not in _PHRASAL_VERBS:
            return
        first = rest.split(" ", 1)[0]
        if not phrasal and first in grammar.PREPOSITIONS:
            return
        if found.verb in ("help", "let") and first in verbs.BASES:
            return
        if m := re.match(r"(?:you|users|us) to (?=\w)", rest):
            question = f"What {found.auxiliary} {found.subject} {found.verb} me to do?"
            skip, end = m.end(), max(end, m.end() + 1)
        else:
            question = found.ask("What", rest[:skip].strip())
        start = found.rest_start + skip
        yield Draft(
            wording.ended(question, tail),
            *offsets(sentence.cut(start, found.rest_start + end)),
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
            *offsets(sentence.cut(start, found.rest_start + end)),
            "cloze",
            0.5,
        )
    elif match := _STRANDED.match(rest):
        if match[1].endswith(("expected to", "supposed to", "allowed to", "able to", "forced to")):
            return
        if match[1].endswith(" to") and not _NOUN_AHEAD.match(rest, match.end()):
            return
        start = found.rest_start + match.end()
        yield Draft(
            wording.ended(found.ask("What", match[1]), tail),
            *offsets(sentence.cut(start, found.rest_start + end)),
            "cloze",
        )
    elif match := re.match(r"((?:\w+ly |also )?(\w+)) (?=(?:an?|the|your|all|\d)\b|\w+s\b)", rest):
        perfect = found.finite in ("has", "have", "had") and grammar.is_past(match[2])
        modal = found.finite.lower() in _MODALS and match[2] in verbs.BASES
        if (perfect or modal) and match[2] not in _FAINT:
            yield Draft(
                wording.ended(found.ask("What", match[1]), tail),
                *offsets(sentence.cut(found.rest_start + match.end(), found.rest_start + end)),
                "cloze",
            )
    elif (
        found.finite in ("must", "should", "shall")
        and rest.count(" ") > 1
        and re.match(
            r"be (?!\w+(?:ed|en)\b|made|set|sent|to|of|in|on|at|as|from|by|for|with|able)", rest
        )
    ):
        yield Draft(
            wording.ended(f"What {found.auxiliary} {found.subject} be", tail),
            *offsets(sentence.cut(found.rest_start + 3, found.rest_start + end)),
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
        or re.match(r"(?:one|to|whether|that|how|what|where|when|why|no longer|not|be) ", rest)
        or (found.finite in ("is", "was") and re.match(r"(?:\w+ly )?(?:an?|the|one of) ", rest))
        or re.match(r"(?:\w+ly )?\w+ing\b", rest)
        and found.finite in ("is", "was")
    ):
        return
    if plural or rest.count(" ") < 4 or re.match(r"(?:the|an?) \w+$|you\b", found.subject):
        return
    told = sentence.words[: found.subject_end]
    if (
        wording.is_unclear(told)
        or grammar.has_past(told)
        or not _is_telling(told)
        or "," in rest[:30]
    ):
        return
    being = found.finite in ("is", "was", "are", "were") or rest.startswith("been ")
    if being and _NO_PREDICATE.match(rest.removeprefix("been ")):
        return
    done = f"{found.finite} {rest}".split(" ")[:3]
    wh = "What"
    if re.fullmatch(_PERSON, told) and any(_PERSONAL.search(word) for word in done):
        wh = "Who"
    question = wording.ended(f"{wh} {found.finite} {rest}", tail)
    yield Draft(question, *offsets(sentence.cut(0, found.subject_end)), "cloze", -1.0)


def _is_telling(subject: str) -> bool:
    """Tell an answer worth giving, a name or more than one word, from "clients"."""
    if re.match(
        r"(?:\w+ing|every|each|any|all|no|no-one|much|both|people|many|some|other)\b", subject, re.I
    ):
        return False
    named = re.search(r"[a-z][A-Z]|[_.()\d]|\b[A-Z]{2}", subject)
    heading = re.match(
        r"(?:The|An?) (?:(?:new|existing|current|proposed|first|second|simple|same|full|"
        r"other) )?[\w-]+$",
        subject,
        re.IGNORECASE,
    )
    return bool(named) or (not heading and len(wording.content(subject)) > 1)


_BLANK = re.compile(
    rf"(?<=[a-z,] )(?:{NUMBER} (?!that|and|for|the|with|are|was|from)[a-z]{{3,}}(?= [a-z]|[.,])|"
    rf"\d+(?:\.\d+)+|"
    rf"[A-Z][\w-]+(?: [A-Z][\w-]+)*)"
    r"(?=[ .,])"
)


def gaps(passage: Passage) -> Iterator[Draft]:
    """Blank out a name or a number that only this passage tells: the last resort."""
    told = " ".join(passage.path).lower()
    for block in passage.blocks:
        if block.kind not in ("text", "item"):
            continue
        for sentence in page.sentences(block.text):
            words = sentence.words
            if not 8 <= words.count(" ") + 1 <= 29 or not page.whole(words):
                continue
            if wording.is_unclear(words.removeprefix("We ")) or len(wording.content(words)) < 5:
                continue
            if not grammar.clause(words) and passage.path:
                continue
            for match in [m for m in _BLANK.finditer(words) if m.start() > 15][-1:]:
                blank = match[0].lower()
                if blank in told or match[0].isupper() or passage.text.lower().count(blank) > 1:
                    continue
                if passage.path and not re.search(r"\d", match[0]):
                    continue
                if re.search(r"\b[A-Z]{3,}$", match[0]):
                    continue
                if "()" in words or words[0] in "\"“'":
                    continue
                question = f"Complete: {words[: match.start()]}____{words[match.end() :]}"
                span = offsets(sentence.cut(match.start(), match.end()))
                if not passage.path or topic.stands_alone(words, passage):
                    yield Draft(question, *span, "cloze", -2.0)
