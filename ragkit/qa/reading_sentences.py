"""Tasks that a sentence or two give: connectives, definitions, numbers and telling words.

For `reading`, which knows the passage and words the prompts. A connective counts only where both
of its sides are clauses for certain.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ragkit.qa.heuristic import markup, page, verbs, wording
from ragkit.qa.heuristic import patterns as grammar

_CLAUSE = r"[^;:]+?"
# (kind, pattern of a sentence without its full stop): x is asked about, y answers
_WITHIN = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        ("cause", rf"(?P<x>{_CLAUSE}),? because (?!of\b)(?P<y>.+)"),
        ("cause", rf"(?P<x>{_CLAUSE}), since (?P<y>(?:the|there|it|you|we|they)\b.+)"),
        ("cause", r"(?:Because|Since) (?!of\b)(?P<y>[^,]+), (?P<x>[^,]+)"),
        ("effect", rf"(?P<x>{_CLAUSE}), (?:and )?so (?!that\b|far\b|as\b|long\b)(?P<y>.+)"),
        ("effect", r"(?P<x>[^;]+)(?:;|,|, and) (?:therefore|thus|hence|consequently),? (?P<y>.+)"),
        ("effect", rf"(?P<x>{_CLAUSE}), (?:which means|meaning)(?: that)? (?P<y>.+)"),
        ("contrast", rf"(?P<x>{_CLAUSE}), (?:but|whereas|although|though) (?P<y>.+)"),
        ("contrast", r"(?:Although|Though|Even though|Whereas) (?P<x>[^,]+), (?P<y>.+)"),
        ("contrast", r"(?P<x>[^;]+); however, (?P<y>.+)"),
        ("condition", r"(?P<x>(?:If|When|Whenever|Unless|Once) [^,]+), (?:then )?(?P<y>.+)"),
        ("purpose", r"(?:In order to|To) (?P<x>[a-z]+ [^,]+), (?:simply |just )?(?P<y>.+)"),
    )
)
# (kind, how a sentence begins that answers a question about the sentence before it)
_BETWEEN = tuple(
    (kind, re.compile(rf"(?:{openings}) (?P<y>.+)"))
    for kind, openings in (
        ("cause", r"(?:This|That|The reason)(?: is|['’]s) (?:because|that)"),
        ("effect", r"(?:Therefore|Thus|Hence|Consequently|As a (?:result|consequence)),"),
        ("effect", r"(?:This|That|Which) means(?: that)?|For this reason,"),
        ("contrast", r"(?:However|Nevertheless|Nonetheless|Conversely|In contrast|By contrast),"),
        ("contrast", r"On the other hand,"),
        ("instead", r"Instead,"),
        ("example", r"(?:For example|For instance|As an example),"),
        ("paraphrase", r"(?:In other words|Put differently|That is),"),
    )
)
_VAGUE = re.compile(
    r"(?:It|This|That|These|Those|They|He|She|Here|There|Such|Both|Some|Another|One|Neither|His|Her|"
    r"Their|Its|And|But|So|Or|Also|Then|However|Therefore|Thus|Hence|Instead|For example|"
    r"To do (?:so|this|that)|(?:In|At|With|After|From|On|By|For) (?:this|that|these|both)|The "
    r"(?:former|latter|same|following|above|other|second|third))\b"
)
# what a sentence may begin with that belongs to the one before it
_LEAD = re.compile(
    r"(?:However|Therefore|Thus|Hence|Consequently|Also|In addition|Additionally|Furthermore|"
    r"Moreover|For example|For instance|Unfortunately|Similarly|Likewise|TODO:?|Note:?|Please note"
    r"(?: that|:)?|Note that|Keep in mind that),? "
)
_POINTING = re.compile(
    r"\b(?:above|below|following|follows|see|here|figure|et al|steps?|refer(?:ence)?|"
    r"this (?:article|page|guide|link|form|blog|post|section)|"
    r"next section|links?|resources?|contact (?:us|our))\b",
    re.IGNORECASE,
)
_DEBRIS = re.compile(
    r"https?:|www\.|[|<>{}=\\^~]|::|\.\.\.|…|:\w+:|\S{45}|[a-z)]\.[A-Z][a-z]|"
    r"[^\x00-\u024f\u2010-\u203a€]"
)
_UNCLEAR = re.compile(r"\b(?:it|they|them|this|that|these|those|here|below|above|I|we|our)\b")
_NOTED = re.compile(r"(?:please )?(?:note|keep in mind|be aware) that ")
_JOINED = re.compile(r"(?:and|or|nor|but|not|then|so)\b", re.IGNORECASE)
_EMPTY = re.compile(r"(?:learn|read|find out|get started|do|see)\b")
_GENERAL = re.compile(
    r"(?:All|Any|Each|Every|Your|Our|My|One|First|Next|Another|Most|The (?:first|last|next|only|"
    r"best|main|[a-z]+est)|There|What|Who)\b|.*[\"“]|.*\b(?:in|case|because|goal|aim|idea|answer|"
    r"reason|result|problem|point|difference|advantage|solution|purpose|(\w+) \1)\b",
    re.IGNORECASE,
)
_DEFINES = re.compile(
    r"(?:means|denotes|refers to|stands for|(?:is|are) defined as) (?!that\b)"
    r"|(?:is|are) (?:an?|any) (?!\w*(?:great|good|nice|perfect|easy|lot|bit|must)\b)"
    r".*\b(?:that|which|who|whose|where|for|used|to)\b"
)
_HEDGED = re.compile(
    r"\b(?:not|just|only|simply|partly|mainly|mostly|probably|maybe|perhaps|merely|even|whether)$"
)
_PRONOUN_CLAUSE = re.compile(r"(?:it|they|we|you|there|he|she|I)(?:['’]\w+)? \w", re.IGNORECASE)
_UNFINISHED = re.compile(
    r"(?:[,:;(–—-]|\b(?:and|or|the|an?|of|to|for|with|by|in|on|as|is|are))$", re.I
)
_FAINT = (grammar.PREPOSITIONS | grammar.PRONOUNS | grammar.AUXILIARIES) | frozenset(
    verbs.word_list(
        """
        about also always anything everyone everything someone something where another because
        before being cannot could every found first further given however known least likely might
        never other others place possible rather several should since still their there these thing
        things think those though until using usually various whether which while whole whose would
        able different important useful current better
        """
    )
)
_NUMBER = re.compile(
    r"(?<![\w.,:/$€£#%+–-])(?:\d{1,3}(?:,\d{3})+|\d{1,4})(?=%| (?!of\b|or\b|and\b|to\b)[a-z])"
)
_BOUND = re.compile(
    r"\b(?:least|most|than|up to|over|under|about|around|approximately|nearly|almost|only|"
    r"between|to|or|within|every|and|version|step|chapter|from|maximum|minimum|exceeds?|above|below|by)\s*$"
)


@dataclass(frozen=True, slots=True)
class Draft:
    """A task before it is worded: x is what its wordings ask about; of one source one is taken."""

    kind: str
    x: str
    answer: str
    source: str


def between(before: str, sentence: str) -> Iterator[Draft]:
    """A sentence whose first words say how it follows on the one before."""
    asked = _capital(_LEAD.sub("", before))
    if _VAGUE.match(asked) or not fits(asked, 30, 250) or asked.count(" ") < 4:
        return
    for kind, pattern in _BETWEEN:
        match = pattern.match(sentence)
        if match and fits(match["y"], 20, 400) and not _POINTING.search(match["y"]):
            yield Draft(kind, asked, _capital(match["y"]), sentence)


def within(sentence: str) -> Iterator[Draft]:
    """One sentence of two clauses and the connective between them."""
    if not sentence.endswith("."):
        return
    for kind, pattern in _WITHIN:
        match = pattern.fullmatch(sentence.rstrip("."))
        x, y = match.group("x", "y") if match else ("", "")
        y = _NOTED.sub("", y)
        if not fits(x, 10, 220) or not fits(y, 15, 400) or _JOINED.match(y):
            continue
        if kind in ("condition", "purpose"):
            yield from _case(kind, x, y, sentence)
        elif _is_clause(x) and _is_clause(y) and not (_HEDGED.search(x) or _VAGUE.match(x)):
            yield Draft(kind, _ended(x), _ended(y), sentence)
            return


def _case(kind: str, x: str, y: str, sentence: str) -> Iterator[Draft]:
    """A condition or a purpose and what to do or to expect then."""
    first, _, rest = x.partition(" ")
    asked = x if kind == "purpose" else f"{first.lower()} {rest}"
    if x.count(" ") < 3 or ":" in y or _POINTING.search(y) or _UNCLEAR.search(asked):
        return
    advice = grammar.imperative(y) or y.startswith(("please ", "you "))
    if (
        advice and grammar.imperative(x) and not _EMPTY.match(x)
        if kind == "purpose"
        else (advice or _is_clause(y)) and _is_clause(rest)
    ):
        yield Draft(kind, asked, _ended(y), sentence)


def definition(sentence: str) -> Iterator[Draft]:
    """A sentence that says what its subject is or means."""
    found = None if _VAGUE.match(sentence) else grammar.clause(sentence)
    if not found or found.subject.count(" ") > 3 or _GENERAL.match(found.subject):
        return
    says = f"{found.finite} {found.rest}"
    if _DEFINES.match(says) and not _POINTING.search(says):
        x = re.sub(r"^(?:An?|The) (?:term )?", "", found.subject)
        yield Draft("definition", x, sentence, sentence)


def number_statement(sentence: str, text: str, rng: random.Random) -> Iterator[Draft]:
    """A sentence as it is, or with a number that the text nowhere has."""
    match = _NUMBER.search(sentence)
    if not match or len(sentence) > 250 or _VAGUE.match(sentence):
        return
    if _BOUND.search(sentence[: match.start()]):
        return
    value = int(match[0].replace(",", ""))
    ways = [value + step for step in (1, 2, 3, 5)] if value % 10 else [value * 2, value + 10]
    ways = [w for w in ways if not re.search(rf"\b(?:{w}|{w:,})\b", text)]
    if value < 2 or not ways or (sentence[match.end() :].startswith("%") and value > 50):
        return
    other = rng.choice(ways)
    shown = f"{other:,}" if "," in match[0] else str(other)
    changed = sentence[: match.start()] + shown + sentence[match.end() :]
    yield statement(sentence, changed, rng)


def statement(right: str, wrong: str, rng: random.Random) -> Draft:
    """One of the two, each as likely, so that what is asked about does not tell the answer."""
    if rng.random() < 0.5:
        return Draft("truth", right, "Yes", right)
    return Draft("truth", wrong, f"No. The text says: “{right}”", right)


def telling_words(clean: list[str], rng: random.Random) -> Iterator[Draft]:
    """The telling words of a sentence that no other sentence has together."""
    for sentence in clean:
        if _VAGUE.match(sentence) or _POINTING.search(sentence) or not 50 <= len(sentence) <= 300:
            continue
        if wording.is_unclear(sentence) or not grammar.clause(sentence):
            continue
        others = [other for other in clean if other != sentence]
        words = dict.fromkeys(re.findall(r"[^\W\d_][\w./-]{3,}\w", sentence))
        telling = [word for word in words if _telling(word.lower(), sentence)]
        telling.sort(key=lambda w: (sum(w in other for other in others), -len(w)))
        terms = list({word[:5].lower(): word for word in reversed(telling)}.values())[:-5:-1]
        if len(terms) == 4 and not any(all(t in other for t in terms) for other in others):
            rng.shuffle(terms)
            yield Draft("words", ", ".join(terms), sentence, sentence)


def stands_alone(words: str) -> bool:
    """Tell whether the words do not begin by pointing back, nor lead elsewhere."""
    return not (_VAGUE.match(words) or re.search(r"\b(?:links?|resources?|below)\b", words))


def _telling(word: str, sentence: str) -> bool:
    """Tell whether a word names something, as far as lists, endings and its place show."""
    if word in verbs.BASES and not re.search(rf"\b(?:the|an?|of|your|each) {word}\b", sentence):
        return False
    verb = grammar.third_person(word) or grammar.is_past(word)
    return not (verb or word in _FAINT or word.endswith(("ly", "ing", "ed", "ful", "able", "ous")))


def is_english(words: str) -> bool:
    return bool(words) and grammar.is_english(words)


def is_clean(words: str) -> bool:
    """Tell whether the words are a complete English sentence without remains of markup."""
    return page.whole(words) and is_english(words) and fits(words, 20, 400) and words[0] != "("


def fits(words: str, least: int, most: int) -> bool:
    """Tell whether the words are of such a length, not cut, and free of debris."""
    return (
        least <= len(words) <= most
        and not (_DEBRIS.search(words) or _UNFINISHED.search(words) or markup.has_markup(words))
        and all(words.count(a) == words.count(b) for a, b in ("()", "[]", "“”"))
        and words.count('"') % 2 == 0
    )


def _is_clause(words: str) -> bool:
    """Tell whether the words are a clause with its own subject and verb, as far as rules can."""
    bare = re.sub(r"^(?:[Tt]his|[Tt]hese|[Tt]hat|[Tt]hose) ", "the ", words)
    # a verb that ends the words is known only by what follows it
    return bool(_PRONOUN_CLAUSE.match(words) or grammar.clause(f"{bare} x"))


def _capital(words: str) -> str:
    """Begin as a sentence does, unless the first word is a name with a writing of its own."""
    plain = re.match(r"[a-z]+(?:['’][a-z]+)?,?(?: |$)", words)
    return words[0].upper() + words[1:] if plain else words


def _ended(words: str) -> str:
    return _capital(words).rstrip(".") + "."
