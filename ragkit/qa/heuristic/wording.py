"""The wording of the `heuristic` teacher's questions: persona, capitals, topic, clarity."""

from __future__ import annotations

import re

from ragkit.qa.heuristic import patterns as grammar
from ragkit.qa.heuristic import verbs
from ragkit.qa.heuristic.page import Passage

STOP = frozenset(
    verbs.word_list(
        """
    a an the of in on at to for from by with and or is are was were be been do does did what
    which who when where why how many much i my me it its that this as can will
    """
    )
)
_ADJECTIVES = frozenset(
    verbs.word_list(
        """
    new good bad large small high low old early late full free other more less long short
    first last next main key common human multiple single simple idle double static dynamic public
    private default standard typical normal native second third fresh extra empty bare plain raw
    """
    )
)
GENERIC_HEADINGS = frozenset(
    verbs.word_list(
        """
    overview introduction summary example examples usage note notes background abstract
    conclusion conclusions discussion results methods details description general
    requirements limitations prerequisites installation configuration setup options
    parameters limits settings faq faqs features steps tips caveats references appendix
    about motivation rationale benefits glossary media roadmap integrations alerting contributing
    instrumentation implementation proposal specification semantics syntax status background
    copyright acknowledgements acknowledgments links footnotes alternatives performance discussions
    """
    )
    + ["frequently asked questions", "reference implementation", "open issues", "rejected ideas"]
)
# A question that holds one of these cannot be understood without its passage.
_UNCLEAR = re.compile(
    r"\b(?:it|its|it's|they|them|their|theirs|he|she|his|him|her|we|our|us|ours|this|these|those|"
    r"such|said|former|latter|here|above|below|aforementioned|following|previous|figure|fig|"
    r"respectively|step \d+|table \d+|section \d+)\b",
    re.IGNORECASE,
)
_YOU_AS_OBJECT = (
    r"\b(to|for|with|by|from|of|between|"
    + "|".join(sorted({*verbs.BASES, *verbs.THIRDS, *verbs.GERUNDS} - {"have", "can", "need"}))
    + r") you\b(?! (?:would|can|will|have|are|want|need|should|may|could|might|must|do|did|like)\b)"
)
_ENDING = re.compile(r"(?:ies|ing|ed|es|s|e|y)$")
_WORD = re.compile(r"[\w-]+")
_NAMELIKE = re.compile(r"(?:us|is|ss|[A-Z]|\d)$")


def is_unclear(words: str) -> bool:
    """Tell whether the words point at something outside themselves ("it", "this", "we")."""
    return bool(_UNCLEAR.search(words))


def as_asker(words: str) -> str:
    """Turn "your order" into "my order", as the person who asks would say it."""
    if "you" not in words and "You" not in words:
        return words
    for old, new in (
        (r"\b[Yy]ou(?: are|[’']re)\b", "I am"),
        (r"\byou were\b", "I was"),
        (r"\bwere you\b", "was I"),
        (r"\byou[’']ve\b", "I have"),
        (r"\byou[’']d\b", "I would"),
        (r"\byou[’']ll\b", "I will"),
        (r"\bare you\b", "am I"),
        (r"\byourself\b", "myself"),
        (r"\byours\b", "mine"),
        (_YOU_AS_OBJECT, r"\1 me"),
        (
            r"\b((?:will|can|to|would|should|may|might|must|could) (?!do\b|not\b)[a-z]+) you\b",
            r"\1 me",
        ),
        (r"\b[Yy]our\b", "my"),
        (r"\byou\b(?=$|[.,?])", "me"),
        (r"\b[Yy]ou\b", "I"),
    ):
        words = re.sub(old, new, words)
    return words


def lowered(words: str, passage: Passage) -> str:
    """Take the capital from a sentence's first word unless it is a name."""
    first, blank, rest = words.partition(" ")
    plain = first.lower()
    if first in passage.names:
        return words
    if plain == "you":
        return f"I{blank}{rest}"
    if plain in grammar.DETERMINERS:
        return plain + blank + rest
    if first[1:] != plain[1:] or (rest and rest.istitle()):
        return words
    known = (
        plain in grammar.DETERMINERS or plain in passage.lowercase or plain in grammar.PREPOSITIONS
    )
    common = plain in verbs.BASES or plain.endswith(
        ("ing", "tion", "ed", "ive", "ble", "ous", "ful", "al", "ar", "ent", "ic", "ary", "seven")
    )
    plural = len(plain) > 4 and plain.endswith("s") and not _NAMELIKE.search(plain)
    if known or ((common or plural or plain in _ADJECTIVES) and first not in passage.names):
        return plain + blank + rest
    return words


def meaning(question: str) -> str:
    """Ask what is meant by a single word: "What is X?" alone is a poor question."""
    return re.sub(r"^What (?:is|are) (\S+)\?$", r"What is meant by \1?", question)


def ended(words: str, tail: str = "") -> str:
    """Finish a question: no brackets, the sentence's opening phrase at the end, one mark."""
    words = re.sub(r"\s*\([^()]*\)", "", words.rstrip(" .,;:!"))
    words = re.sub(r",? (?:however|though|too|as well)$", "", words)
    if tail and not is_unclear(tail):
        words = f"{words} {tail}"
    return f"{words}?"


def content(words: str) -> set[str]:
    """Return the words that carry meaning, in lower case."""
    return {w for w in _WORD.findall(words.lower()) if w not in STOP}


def stem(word: str) -> str:
    """Return a word without its ending, so that "files" and "filing" are the same."""
    return _ENDING.sub("", word)
