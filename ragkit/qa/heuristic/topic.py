"""What makes a question of the `heuristic` teacher stand alone: the topic of its document.

A document's title becomes a phrase ("in the data model", "when adding a target", `in "New Super"`)
that is added to each question that other documents, too, could answer.
"""

from __future__ import annotations

import re
from functools import lru_cache

from ragkit.qa.heuristic import patterns as grammar
from ragkit.qa.heuristic import verbs, wording
from ragkit.qa.heuristic.page import QUESTION_START, Passage

# Words that carry meaning, names counted twice, of a question that stands alone: if it shares a
# word with the title, if it has a name, if neither.
_ENOUGH = (5, 6, 9)
_ASKING = frozenset(
    verbs.word_list(
        """
        happens happened if there not no used use meant mean stand done once unless must may should
        shall could would might always only
        """
    )
)
_LEAST_WITHOUT_TOPIC = 2  # of one whose document's title makes no phrase
_MAX_TITLE_WORDS = 10
_OPENING = re.compile(
    r"^(?:(?:Understanding|Introducing|Introduction to|Announcing|About|Overview of|Exploring)"
    r"(?!\s+and\b)(?: the| an?)?|Getting started with) ",
    re.IGNORECASE,
)
_DOCUMENT_KIND = re.compile(
    r"(?:[Ss]pecification|[Ss]chedule|[Rr]eference|[Gg]uide|[Mm]anual|[Tt]utorial|[Gg]lossary|"
    r"[Pp]olicy|[Pp]rogram|[Pp]rotocol|[Hh]andbook|[Ss]urvey|[Ee]lection|[Ii]ndex|[Ff]ormat)$"
)
_NAMELIKE = re.compile(r"\w*(?:[A-Z]|\d|_|\w\.\w|\w\()")


@lru_cache(maxsize=256)  # the passages of a document follow one another
def of_title(title: str) -> str:
    """Turn a document's title into the phrase that makes a question stand alone, or into ""."""
    words = re.sub(r"\s*\[[^\[\]]*\]$|\s*\([^()]*\)$", "", title.strip()).rstrip("?.!")
    words = re.split(r": | -{1,3} | – | — |, an? ", words)[0].strip()
    words = _OPENING.sub("", words)
    if not 3 <= len(words) <= 80 or re.search(r"[<>{}|]|^\S+/\S+$|\.(?:md|rst|txt|html?)$", words):
        return ""
    if match := re.match(r"What (?:is|are) (?:the |an? )?(.+)", words):
        words = match[1]
    elif match := re.match(r"(?:How (?:do|can|should) I|How to|Can I) (\w+) (.+)", words):
        gerund = verbs.GERUND_OF.get(match[1])
        return (
            wording.as_asker(f"when {gerund} {match[2]}") if gerund and " or " not in words else ""
        )
    elif match := re.match(r"When to (\w+) (.+)", words):
        gerund = verbs.GERUND_OF.get(match[1])
        return wording.as_asker(f"when {gerund} {match[2]}") if gerund else ""
    elif _in_title_case(words):
        return _within(words)
    elif grammar.base_of_gerund(words):
        return wording.as_asker(f"when {words[0].lower()}{words[1:]}")
    elif grammar.imperative(words):
        verb, _, rest = words.partition(" ")
        return wording.as_asker(f"when {verbs.GERUND_OF[verb.lower()]} {rest}")
    return _within(words) if len(words.split()) <= _MAX_TITLE_WORDS else ""


def _in_title_case(words: str) -> bool:
    """Tell "Making Types Look Like Classes", which is best quoted, from a plain sentence."""
    later = [word for word in words.split()[1:] if len(word) > 3 and word.isalpha()]
    return len(later) > 1 and sum(word.istitle() for word in later) > 0.6 * len(later)


def _within(words: str) -> str:
    if words.lower() in wording.GENERIC_HEADINGS or QUESTION_START.match(words):
        return ""
    if re.search(r"\d", words) and " " not in words:
        return f"on the {words}"
    if re.fullmatch(r"[A-Z][a-z]+", words):
        return ""  # "Alerting", "Media": a word that many documents are about
    plain = words[0].lower() + words[1:]
    short = words.count(" ") < 4 and not grammar.clause(words + " x")
    if short and words[1:].islower() and " " in words and re.fullmatch(r"[\w -]+", words):
        if re.match(r"\w+ing (?:the|an?|your|up)\b", plain):
            return wording.as_asker(f"when {plain}")
        if grammar.is_plural(plain):
            return f"in {plain}"
    if short and _DOCUMENT_KIND.search(words):
        return f"in the {words}"
    if words.count(" ") < 2 and re.fullmatch(r"[A-Z][\w.-]*(?: [A-Z\d][\w.-]*)?", words):
        return f'in "{words}"' if re.match(r"\w+ing\b", words) else f"in {words}"
    return f'in "{words}"' if '"' not in words and not words[0].islower() else ""


def quoted(title: str) -> str:
    """Return the title in quotes, or "" where it makes no topic."""
    words = re.sub(r"\s*\[[^\[\]]*\]$", "", title.strip()).rstrip("?.!")
    return f'"{words}"' if of_title(title) and '"' not in words else ""


def subject(title: str) -> str:
    """Return the title as it can be asked about ("the motivation for ..."), or ""."""
    phrase = of_title(title)
    return re.sub(r"^(?:in|on|when) ", "", phrase)


def anchored(question: str, passage: Passage) -> str:
    """Add the document's topic to a question that does not stand alone; "" where none is known."""
    if not passage.document or stands_alone(question, passage):
        return question
    topic = passage.topic
    if topic and topic.split(" ", 1)[1].strip('"').lower() in question.lower():
        return question
    if not topic:
        return question if weight(question) >= _LEAST_WITHOUT_TOPIC else ""
    if topic.startswith("when ") and re.search(r"\b[Ww]hen\b", question):
        return question if weight(question) > _LEAST_WITHOUT_TOPIC else ""
    first, _, rest = question.partition(" ")
    if len(question) > 60 or re.search(r" (?:if|once|unless|when) ", question):
        return f"{topic[0].upper()}{topic[1:]}, {first.lower()} {rest}"
    return f"{question.rstrip('?')} {topic}?"


def as_asked(question: str, passage: Passage) -> str:
    """Name the document in a question of its author's that leans on it ("Which does it need?")."""
    if match := re.match(r"Interview with (.{2,40})$", passage.document):
        question = re.sub(r"\byour\b", f"{match[1]}'s", question)
        for verb, third in (("are", "is"), ("have", "has"), ("were", "was")):
            question = re.sub(rf"\b{verb} you\b", f"{third} {match[1]}", question)
            question = re.sub(rf"^(What \w+) {verb} you\b", rf"\1 {third} {match[1]}", question)
        question = re.sub(r"\bdo you\b", f"does {match[1]}", question)
        return re.sub(r"\byou\b", match[1], question)
    if passage.path and wording.is_unclear(question):
        return ""
    leans = weight(question) < _LEAST_WITHOUT_TOPIC
    if not leans or not passage.document or not passage.topic:
        return question
    first, _, rest = question.partition(" ")
    if passage.topic.startswith("when ") or stands_alone(question, passage):
        return question
    first = first if re.match(r"I\b", first) else first.lower()
    return f"{passage.topic[0].upper()}{passage.topic[1:]}, {first} {rest}"


def stands_alone(question: str, passage: Passage) -> bool:
    """Tell whether a question names its document's topic, or is as specific as if it did."""
    title = _stems(passage.document)
    shared = len(title & _stems(question))
    if shared >= 2 or shared == len(title) > 0:
        return True
    enough = _ENOUGH[0] if shared else _ENOUGH[1] if _names(question) else _ENOUGH[2]
    return weight(question) >= enough


@lru_cache(maxsize=4096)
def _stems(words: str) -> frozenset[str]:
    return frozenset(wording.stem(word) for word in wording.content(words))


def weight(question: str) -> int:
    """Count the words that carry meaning; up to two names count twice."""
    return len(wording.content(question) - _ASKING) + min(_names(question), 2)


def _names(question: str) -> int:
    return sum(bool(_NAMELIKE.match(word)) for word in question.split()[1:])
