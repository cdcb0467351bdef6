"""The `heuristic` teacher's questions from single sentences: one small function a rule."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from ragkit.qa.heuristic import cloze, page, verbs, wording
from ragkit.qa.heuristic import patterns as grammar
from ragkit.qa.heuristic.cloze import ABOUT, AMOUNT, NUMBER, PERIOD
from ragkit.qa.heuristic.markup import Text, offsets
from ragkit.qa.heuristic.page import Block, Draft, Passage
from ragkit.qa.heuristic.patterns import Clause

_PLURAL_NOUNS = re.compile(
    r"(?!(?:now|also|not|often|still|very|more|most|less|only|both) |\w+(?:ed|ing|ly) )"
    r"(?:[\w-]+,? ){1,4}[\w-]+[^us]s(?=$| that | of | which | with )"
)
_REASON = re.compile(
    r"(?:,? (?:simply|just|merely|purely|solely|precisely|primarily|only|partly|probably|mostly|"
    r"mainly|largely|especially))?,? "
    r"(because|so that|in order to) (?=\w)"
)
_INSTRUCTED = re.compile(
    r"(?:you (?:should|must|can|need to|have to|will need to)\b|please |simply )"
)
_NO_OUTCOME = re.compile(
    r"(?:i\.e|e\.g|or|and|but|for example|such|you (?:want|know|may be|might be)|there is such|"
    r"it[’']s easy|the (?:next )?(?:question|answer|problem)|this is|that is)\b"
)
_SMALL_WORDS = frozenset(("of", "and", "the", "to", "for"))
_PAST_AUXILIARIES = frozenset(("did", "was", "were", "had"))
_LABEL = re.compile(
    r"(?:(?:BACKGROUND|METHODS?|RESULTS?|CONCLUSIONS?|FINDINGS|OBJECTIVES?|Abstract|Text|Note|"
    r"Important(?: note)?|Please note|Tip|Warning)(?: AND [A-Z]+)?:\s+|"
    r"(?:However|Therefore|Moreover|Furthermore|In addition|Additionally|Thus|Hence|Finally|Indeed|"
    r"Generally|Typically|Currently|Also|Interestingly|Notably|Recently|Overall|In general|"
    r"Importantly|In fact|In contrast|For example|For instance|Similarly|Please note|Note|Remember|"
    r"Consequently|As a result|In particular|Specifically),?\s(?:that )?|"
    r"(?:(?:These|Our|The|Several|Previous|Recent) )?(?:[A-Za-z]+ )?"
    r"(?:results|findings|data|studies) (?:have |also |strongly )*"
    r"(?:suggest|suggested|indicate|indicated|show|showed|shown|demonstrate|demonstrated) that |"
    r"We (?:have |also )?(?:found|show|showed|shown|observed) that )+"
)
_FRONTED = re.compile(
    r"((?:In|On|At|During|Since|Before|After|Within|Under|For) [^,.;:?]{2,50}), (?=\S)"
)


def from_term(block: Block, passage: Passage) -> Iterator[Draft]:
    """Ask what the term of "Term: what it is" means."""
    words = block.text.words
    match = re.match(r"([A-Z][\w’'/ -]{2,40}?)(?:: | [–—] )(?=[A-Z\w].{15})", words)
    if not match or _LABEL.match(words) or match[1].count(" ") > 3:
        return
    term = match[1].strip()
    if re.search(
        r"\d$|^(?:Your |For example|Example|Step|Note|Update|Author|License|Keywords|Date)|"
        r"\b(?:note|notice|issue|warning|breaking|"
        r"caution|todo|pros|cons|problem|solution|rationale|complaint|question|answer|response|"
        r"summary|results?|advantages?|disadvantages?|motivation|background|status|reason|idea|fix|"
        r"changes?|changed|added|removed|fixed|deprecated|bug|feature|enhancement|bugfix|tl.dr)s?$",
        term,
        re.IGNORECASE,
    ):
        return
    end = page.sentences(block.text.cut(match.end(), len(words)))[0]
    name = wording.lowered(term, passage)
    if grammar.third_person(term.split()[0].lower()):
        return
    odd = r"(?:You|We|It|This|These|If|When|To|Retailers who|\w+ing)\b|\w+ (?:the|an?|your|in|on)\b"
    if re.match(odd, end.words) and not re.match(r"(?:An?|The|Any|All) ", end.words):
        return
    if (
        end.words[-1] not in ".!"
        or grammar.clause(term + " x")
        or not (end.words[0].isupper() or re.match(r"(?:any|an?|the|all) ", end.words))
    ):
        return
    noun = r"(?:An?|The|Any|All|One|Each|Every) |(?:[\w-]+ ){1,3}(?:that|which|of|used) "
    if grammar.third_person(end.words.split(" ", 1)[0].lower()):
        return
    if not re.match(noun, end.words, re.I) or (
        grammar.clause(end.words) and not re.match(r"An? ", end.words)
    ):
        return
    if grammar.imperative(end.words) or wording.is_unclear(term):
        return
    question = f"What {'are' if grammar.is_plural(term) else 'is'} {name}?"
    yield Draft(question, *offsets(end), "definition", -1.0)


def from_sentence(sentence: Text, passage: Passage) -> Iterator[Draft]:
    """Try every rule on one sentence."""
    yield from _acronyms(sentence)
    yield from _conditions(sentence, passage)
    yield from _purposes(sentence, passage)
    words = sentence.words
    if label := _LABEL.match(words):
        sentence = sentence.cut(label.end(), len(words))
    tail = ""
    if match := _FRONTED.match(sentence.words):
        said = re.match(
            r"(?:On the (?:one|other) hand|On [a-z]+|In (?:theory|practice|general|total|short|"
            r"principle|"
            r"other "
            r"words|some cases|many cases|nearly every case|\w+ cases?)|For (?:similar|"
            r"\w+) reasons?|"
            r"At the (?:time|moment|end)|For now|For one)$",
            match[1],
        )
        tail = "" if said else f"{match[1][0].lower()}{match[1][1:]}"
        sentence = sentence.cut(match.end(), len(sentence.words))
    yield from _counts(sentence, tail)
    if found := grammar.clause(sentence.words):
        subject = wording.lowered(found.subject, passage)
        fixed = replace(found, subject=subject, rest=found.rest.rstrip(".!"))
        yield from _from_clause(sentence, fixed, tail)
        yield from cloze.subjects(sentence, fixed, tail)


def _from_clause(sentence: Text, found: Clause, tail: str) -> Iterator[Draft]:
    yield from _definitions(sentence, found, tail)
    yield from _amounts(sentence, found, tail)
    yield from _reasons(sentence, found)
    yield from cloze.adverbials(sentence, found)
    yield from cloze.objects(sentence, found, tail)


def _acronyms(sentence: Text) -> Iterator[Draft]:
    for match in re.finditer(r"\(([A-Z][A-Za-z]{0,6}[A-Z])s?\)", sentence.words):
        short = match[1]
        before = list(re.finditer(r"[A-Za-z]+", sentence.words[: match.start()]))
        for size in range(len(short), len(short) + 3):
            parts = before[-size:]
            every = "".join(part[0][0] for part in parts).lower()
            main = "".join(part[0][0] for part in parts if part[0] not in _SMALL_WORDS).lower()
            if len(parts) == size and short.lower() in (every, main):
                end = sentence.cut(parts[0].start(), parts[-1].end())
                yield Draft(f"What does {short} stand for?", *offsets(end), "definition", -2.0)
                break


def _conditions(sentence: Text, passage: Passage) -> Iterator[Draft]:
    words = sentence.words
    match = re.match(r"(If|When|Once|Unless) ", words)
    if not match:
        return
    for comma in re.finditer(r", (?:then )?", words):
        end, start = comma.span()
        end -= sum(len(w) for w in (", however", ", though") if words[:end].endswith(w))
        answer, condition = words[start:], wording.as_asker(words[match.end() : end])
        opens = re.match(r"(you|we|it|they|the|your|this|an?|all|any|there|[A-Z]\w+)\b", answer)
        told = grammar.imperative(answer) or _INSTRUCTED.match(answer)
        if re.match(
            r"\w+(?:ing|ed)\b|(?:that|so|not|given|I know|possible|equal|greater|less|set|"
            r"true|false|necessary|needed|desired)\b",
            condition,
        ):
            return
        if _NO_OUTCOME.match(answer) or re.match(r"(?:[\w-]+,? ){1,3}(?:or|and) ", answer[:40]):
            continue
        if (
            (opens or told or grammar.clause(answer))
            and condition.count(" ") >= 2
            and answer.count(" ") >= 2
        ):
            past = (case := grammar.clause(condition)) and case.auxiliary in _PAST_AUXILIARIES
            happens = "What happened" if past and match[1] != "If" else "What happens"
            asked = "What should I do" if told else happens
            question = f"{asked} {match[1].lower()} {condition}?"
            yield Draft(
                question,
                *offsets(sentence.cut(start, len(words))),
                "condition",
                0.5,
            )
            return


def _purposes(sentence: Text, passage: Passage) -> Iterator[Draft]:
    match = re.match(r"(?:To|In order to) (\w+) ([^,]{4,100}), ", sentence.words)
    if not match or match[1] not in verbs.BASES:
        return
    answer = sentence.cut(match.end(), len(sentence.words))
    goal = wording.as_asker(f"{match[1]} {match[2]}")
    first = answer.words.split(" ", 1)[0]
    if first.endswith("ed") or re.match(
        r"(?:you may|you might|there|we['’]re|especially) ", answer.words
    ):
        return
    if first in verbs.BASES or first in ("you", "simply", "just", "please", "go"):
        question = f"How do I {goal}?"
    elif re.match(r"we (?:recommend|suggest|advise)", answer.words):
        question = f"What should I do to {goal}?"
    elif must := re.match(
        r"((?:\w+ ){1,3})(must|should|can|needs? to|ha(?:s|ve) to) ", answer.words
    ):
        if wording.is_unclear(must[1]) or grammar.DETERMINERS.isdisjoint(must[1].lower().split()):
            return
        if must[2] not in ("must", "should", "can"):
            return
        question = f"What {must[2]} {must[1][0].lower()}{must[1][1:].rstrip()} do to {goal}?"
    elif re.match(r"(?:[\w-]+ ){1,6}(?:was|were) \w+ed\b|we \w+ed ", answer.words):
        question = f"What was done to {goal}?"
    else:
        return
    yield Draft(question, *offsets(answer), "procedure", -0.5)


def _counts(sentence: Text, tail: str) -> Iterator[Draft]:
    """Ask how many, of a sentence that begins with the number, or of "there are N ..."."""
    words = sentence.words
    if match := re.match(
        rf"((?:{ABOUT} |a total of )?{NUMBER})( of)? ([a-zA-Z][\w -]*)", words, re.I
    ):
        rest = words[match.start(3) :]
        rest = rest[: min(cloze.boundary(rest), (rest + ", of").index(", of"))]
        found = grammar.clause(rest)
        fraction = re.match(r"(?:fourths|thirds|quarters|times|out|or|and|to|of)\b", rest)
        if found and not fraction and not re.search(r"^\d{4}$|^\d{1,2}[.)]?$", match[1]):
            much = match[1].endswith(("%", "percent"))
            of = match[2] or ""
            wh = f"What percentage{of}" if much else "How many"
            if much or not of:
                question = wording.ended(f"{wh} {found.subject} {found.finite} {found.rest}", tail)
                yield Draft(question, *offsets(sentence.cut(0, match.end(1))), "number")
    if match := re.match(rf"There (are|were) ({AMOUNT}) ([a-z][\w -]+)", words):
        span = offsets(sentence.cut(match.start(2), match.end(2)))
        kind, rest = _before_phrase(match[3])
        yield Draft(wording.ended(f"How many {kind} {match[1]} there{rest}", tail), *span, "number")


def _before_phrase(words: str) -> tuple[str, str]:
    """Split "main layouts for arrays" before its first preposition or relative pronoun."""
    found = re.search(r" (?:to|that|for|in|which|who|where|with|on|at|from)\b", words)
    at = found.start() if found else len(words)
    return words[:at], words[at:]


def _definitions(sentence: Text, found: Clause, tail: str) -> Iterator[Draft]:
    span = offsets(sentence.cut(found.rest_start, len(sentence.words.rstrip(".!"))))
    if found.subject == "I":
        return
    if found.finite in ("is", "are", "was", "were"):
        kinds = found.finite == "are" and _PLURAL_NOUNS.match(found.rest)
        indefinite = kinds or re.match(
            r"(?:an?|the|one of|any|collections?|kinds?|types?)\s", found.rest
        )
        if (
            indefinite
            and found.rest.count(" ") >= 2
            and not re.search(r"^the same|^a \w+$", found.rest)
            and not re.match(r"\w+ing\b", found.subject)
        ):
            known = 0.5 if not re.match(r"the\b", found.subject) else -1.5
            wh = "Who" if re.match(r"(?:Dr|Mr|Mrs|Ms|Prof)\b", found.subject) else "What"
            question = wording.ended(f"{wh} {found.finite} {found.subject}", tail)
            yield Draft(question, *span, "definition", known)
    elif found.finite in ("means", "mean") or (
        found.finite in ("refers", "refer") and found.rest.startswith("to ")
    ):
        rest = "to" if found.verb == "refer" else ""
        skip = 3 if rest else 0
        start = found.rest_start + skip
        yield Draft(
            wording.ended(found.ask("What", rest), tail),
            *offsets(sentence.cut(start, len(sentence.words.rstrip(".!")))),
            "definition",
        )


def _amounts(sentence: Text, found: Clause, tail: str) -> Iterator[Draft]:
    match = re.match(
        rf"(?:set to |equal to )?({AMOUNT})((?: (?!of\b|for\b|to\b|in\b)[\w-]+){{0,3}})",
        found.rest,
    )
    if not match or re.match(r"(?:19|20)\d\d\b", match[1]):
        return
    start = found.rest_start + match.start(1)
    unit = match[2].strip()
    whole = offsets(sentence.cut(start, found.rest_start + match.end()))
    only = offsets(sentence.cut(start, found.rest_start + match.end(1)))
    after = found.rest[match.end() :].strip()
    if after and not re.match(r"(?:of|for|per|in|to|from|on|at|by|with)\b", after):
        return
    if found.finite in ("is", "are", "was", "were"):
        yield Draft(
            f"What {found.auxiliary} {found.subject} {after}".strip() + "?", *whole, "number"
        )
    elif not found.verb:
        return
    elif re.match(PERIOD + r"\b", unit):
        yield Draft(wording.ended(found.ask("How long", after), tail), *whole, "number")
    elif match[1].lstrip("aboutprxmely ").startswith(("$", "€", "£")):
        yield Draft(wording.ended(found.ask("How much", after), tail), *only, "number")
    elif re.search(r"[a-z]s$", unit) and not unit.startswith("times") and "%" not in match[1]:
        yield Draft(wording.ended(found.ask(f"How many {unit}", after), tail), *only, "number")


def _reasons(sentence: Text, found: Clause) -> Iterator[Draft]:
    match = _REASON.search(found.rest)
    before = found.rest[: match.start()] if match else ""
    if match and match.start() >= 4 and not re.search(r"\b(?:that|which|when|if)\b", before):
        start = found.rest_start + match.start(1)
        question = found.ask("Why", found.rest[: match.start()])
        span = offsets(sentence.cut(start, len(sentence.words.rstrip(".!"))))
        yield Draft(wording.ended(question), *span, "condition", 1.0)
