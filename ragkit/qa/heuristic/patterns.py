"""English for the `heuristic` teacher: function words, phrases, and clauses.

Finds subject, verb and rest of a statement. By rules only: there is no tagger, so a clause whose
verb is not certain is no clause. The verbs are in `verbs`; how questions are worded is left to
`wording`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

from ragkit.qa.heuristic import verbs

AUXILIARIES = frozenset(
    verbs.word_list(
        """
    is are was were can could will would may might must should shall cannot has have had
    """
    )
)
DETERMINERS = frozenset(
    verbs.word_list(
        """
    a an the your my our their its his her this that these those each every any all some no
    another both many most several one two three four five
    """
    )
)
PRONOUNS = frozenset(
    verbs.word_list(
        """
    i it he she they we this that these those there here such them him us who which what both
    neither either one others another some many most all none
    """
    )
)
PREPOSITIONS = frozenset(
    verbs.word_list(
        """
    about above after against among around as at before below between by during for from in into
    like near of off on onto out over per since than through to toward towards under until up
    upon using via with within without according based due
    """
    )
)
_ADVERBS = frozenset(
    verbs.word_list("already always ever just long never now often recently still yet")
)
_BREAKS = frozenset(
    verbs.word_list(
        """
    whereas unlike always sometimes perhaps does did do
    once whenever given assuming that which who whom whose where when while if because although
    though unless whether how why so but then not also only and/or
    """
    )
)
_COMMON = re.compile(
    r"\b(?:the|of|and|is|are|to|that|with|you|your|by|from|which|this|it|or|be|was|were|for|has|"
    r"have|"
    r"when|not|because|can|if)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Clause:
    """A statement's parts, ready to be asked about; `rest_start` is an offset in its words."""

    subject: str
    subject_end: int
    auxiliary: str
    verb: str
    finite: str
    rest: str
    rest_start: int

    def ask(self, wh: str, rest: str) -> str:
        """Invert the clause after a question word: "What does" + subject + verb + rest."""
        return " ".join(p for p in (wh, self.auxiliary, self.subject, self.verb, rest) if p)


def is_english(words: str) -> bool:
    """Tell whether English function words are as frequent as in English prose."""
    total = words.count(" ") + 1
    return len(_COMMON.findall(words)) >= max(1, total // 12)


def is_plural(noun_phrase: str) -> bool:
    """Judge by the last word before the first preposition."""
    head = re.split(
        r" (?:of|in|for|on|to|with|from|at|by|using|between) ", noun_phrase, maxsplit=1
    )[0]
    if re.search(r" and ", head):
        return True
    return bool(re.search(r"(?:[^sui]s|[a-z]ies|data|people|criteria)$", head.rstrip(")")))


def ends_open(words: str) -> bool:
    """Tell whether the last word wants another after it ("while", "of")."""
    last = words.rsplit(" ", 1)[-1].lower()
    return last in _BREAKS or (
        last in PREPOSITIONS and last not in ("up", "out", "off", "on", "in")
    )


def third_person(word: str) -> bool:
    return word in verbs.THIRDS


def is_past(word: str) -> bool:
    return word in verbs.PASTS


def has_past(words: str) -> bool:
    """Tell whether a past form with an object is among the words ("0.2 added support and 0.3")."""
    pairs = pairwise(words.lower().split())
    return any(word in verbs.PASTS and after not in PREPOSITIONS for word, after in pairs)


def imperative(words: str) -> bool:
    """Tell whether the words begin with a command ("Click the button")."""
    first, _, rest = words.partition(" ")
    verb = first.lower().strip(",")
    if verb not in verbs.BASES or not rest:
        return False
    second = rest.split(" ", 1)[0].lower()
    if verb in verbs.ALSO_NOUNS:
        if verb == "back" and second != "up":
            return False
        particle = second in ("up", "out", "in", "on", "to", "off") and verb in verbs.WITH_PARTICLE
        return second in DETERMINERS or particle
    return second not in AUXILIARIES and not second.endswith(("n't", "n’t"))


def base_of_gerund(words: str) -> str | None:
    """Return "create a campaign" for "Creating a campaign", None where it may be a noun."""
    first, _, rest = words.partition(" ")
    verb = verbs.GERUNDS.get(first.lower())
    if verb is None or not rest:
        return None
    if (also := re.match(r"and (\w+)\b", rest)) and also[1] in verbs.GERUNDS:
        return f"{verb} and {verbs.GERUNDS[also[1]]}{rest[also.end() :]}"
    second = rest.split(" ", 1)[0].lower()
    if (
        verb in verbs.ALSO_NOUNS or first.lower() in verbs.NOUN_GERUNDS
    ) and second not in DETERMINERS:
        return None
    return f"{verb} {rest}" if second not in AUXILIARIES | {"of", "and", "or"} else None


def clause(words: str) -> Clause | None:
    """Find subject and finite verb, or None where a rule cannot be sure of them."""
    tokens = list(re.finditer(r"\S+", words[:400]))
    for i, token in enumerate(tokens[:14]):
        word = token[0].lower()
        if word.endswith(("n't", "n’t")):
            return None
        if i and (word in AUXILIARIES or _is_verb(tokens, i)):
            return _clause_at(words, tokens, i)
        if word in _BREAKS or word[-1] in ",;:?!" or word.startswith("("):
            if word.startswith("(") and word.endswith(")"):
                continue
            return None
    return None


def _is_verb(tokens: list[re.Match[str]], i: int) -> bool:
    word, before = tokens[i][0].lower(), tokens[i - 1][0].lower()
    after = tokens[i + 1][0].lower() if i + 1 < len(tokens) else ""
    if before in DETERMINERS or before in PREPOSITIONS or not after:
        return False
    opens = (
        (after in DETERMINERS and after not in ("that", "both"))
        or after[0].isdigit()
        or after in ("you", "to")
    )
    if verb := verbs.THIRDS.get(word):
        shown = tokens[i + 1][0]
        opens = opens or (
            shown[0].isupper() and shown not in ("MUST", "SHOULD", "MAY") and before[-1] not in "s."
        )
        if not opens and (after in verbs.PASTS or after in verbs.THIRDS):
            return verb in ("help", "let") and after in verbs.BASES
        told = after == "that" and verb not in verbs.ALSO_NOUNS
        helps = verb in ("help", "let") and after in verbs.BASES
        return opens or told or helps or (verb not in verbs.ALSO_NOUNS and after not in AUXILIARIES)
    if word in verbs.PASTS:
        passive = any(t[0].lower() in AUXILIARIES for t in tokens[i + 1 : i + 9])
        return opens and not passive
    if re.search(r"[a-z]{3}[^sui]s$", word) and before[-1] not in "s,":
        return after in ("a", "an", "the", "its", "your", "all", "both")
    return (
        word in verbs.BASES
        and bool(re.search(r"[^sui]s$", before))
        and (opens or word not in verbs.ALSO_NOUNS)
    )


_QUANTITIES = frozenset(
    verbs.word_list(
        """
    several some many most other another few further please things no thank always never often
    sometimes perhaps besides instead now yes presume assume suppose let say note notice consider
    imagine currently maybe else otherwise due given even more less only not
    """
    )
)
_FAINT_SUBJECT = re.compile(
    r"\b(?:stud(?:y|ies)|authors?|papers?|article|report|examples?|reasons?|difference|purpose|"
    r"idea|"
    r"goal|fact|problem|point|limitation|approach|argument|concern|results?|changes|aim|intent|"
    r"value|option|case|thing|"
    r"way|part|step|years|days|weeks|months|issue|question|answer|advantage|disadvantage|drawback|"
    r"benefit|consequence|effect|"
    r"exception|solution|alternative|trade-off|rest|author|section|PEP|document|proposal|patch)$"
)


def _clause_at(words: str, tokens: list[re.Match[str]], i: int) -> Clause | None:
    subject = words[: tokens[i].start()].rstrip()
    parts = subject.lower().split()
    if (
        parts[0] in PRONOUNS
        and (parts[0] not in ("all", "both", "one") or parts[1:2] in ([], ["of"]))
        or parts[0] in PREPOSITIONS
        or imperative(subject)
        or len(re.sub(r"[\W\d_]", "", subject)) < (2 if subject.isupper() else 3)
        or (parts[0] == "both" and "and" not in parts)
        or parts[-1] in PREPOSITIONS | DETERMINERS | {"and", "or", "to"}
        or parts[0] in _BREAKS
        or parts[0].endswith("ly")
        or i + 1 >= len(tokens)
        or re.search(r"[a-z)]{3}\. ", subject)
        or "’" in parts[0]
        or "'" in parts[0]
        or parts[0] in _QUANTITIES
        or parts[-1] in PRONOUNS | _ADVERBS
        or (len(parts) < 5 and _FAINT_SUBJECT.search(subject))
        or re.search(
            r" (?:An?|The|This|These|You|Your|We|If|It|In|When|Every|Each|All|Any|No)\b", subject
        )
        or re.fullmatch(
            r"[Tt]he (?:first|second|third|last|latter|former|other|next)(?: \w+)?", subject
        )
    ):
        return None
    finite, auxiliary, verb = tokens[i][0], tokens[i][0].lower(), ""
    if finite.isupper():  # the MUST and SHOULD of RFC 2119
        finite = auxiliary
    adverb = parts[-1] + " " if parts[-1].endswith("ly") else ""
    if adverb:
        if auxiliary in AUXILIARIES:
            return None
        subject, finite = subject[: -len(adverb)].rstrip(), adverb + finite
    after = tokens[i + 1][0].lower()
    rest_start = tokens[i + 1].start()
    participle = after.endswith(("ed", "en")) or after in ("been", "not", "led", "shown", "made")
    if auxiliary == "cannot":
        return Clause(
            subject, len(subject), "can", "", finite, "not " + words[rest_start:], rest_start
        )
    if (
        auxiliary in ("has", "have", "had")
        and not participle
        and (after in PREPOSITIONS or after.endswith("ly") or after in _BREAKS or after in _ADVERBS)
    ):
        return None
    if auxiliary in AUXILIARIES and not (auxiliary in ("has", "have", "had") and not participle):
        return Clause(subject, len(subject), auxiliary, "", finite, words[rest_start:], rest_start)
    if auxiliary in verbs.THIRDS or (auxiliary not in verbs.BASES and auxiliary.endswith("s")):
        auxiliary, verb = "does", verbs.THIRDS.get(auxiliary) or verbs.unsuffixed(auxiliary)
    elif auxiliary in verbs.PASTS:
        auxiliary, verb = "did", verbs.PASTS[auxiliary]
    else:
        auxiliary, verb = "do", auxiliary
    return Clause(
        subject, len(subject), auxiliary, adverb + verb, finite, words[rest_start:], rest_start
    )
