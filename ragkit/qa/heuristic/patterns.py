"""English for the `heuristic` teacher: word lists, verb forms, and clauses.

Finds subject, verb and rest of a statement. By rules only: there is no tagger, so a clause whose
verb is not certain is no clause. How questions are worded is left to `wording`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


def word_list(listed: str) -> list[str]:
    return listed.split()


_VERBS = word_list(
    """
    accept access achieve activate add adjust affect aggregate allow analyze answer apply
    approve archive arrange ask assign attach attend authenticate avoid back begin belong bind
    block book browse build buy calculate call cancel capture carry cause change charge check
    choose claim clean clear click clone close collect combine compare compile complete compute
    configure confirm connect consider consist contact contain contribute control convert copy
    cost cover create customize cut deactivate debug decide decline decrease define delete
    deliver demonstrate deny depend deploy deselect detect determine develop disable discard
    disconnect discover display dispute distribute download drag drain drive drop duplicate earn
    edit email embed emit enable encode encrypt enforce ensure enter escape establish estimate
    evaluate exceed exclude execute expand explain explore export expose express extend extract
    fetch file fill filter find finish fix follow format generate get give go grant group grow
    handle have head help hide hold host identify ignore implement import improve include
    increase indicate induce infect inhibit initialize insert inspect install integrate
    interpret introduce investigate invite involve isolate join keep label launch lead learn
    leave let lift link list load locate lock log lose lower maintain make manage map mark match
    mean measure mediate merge migrate modify monitor mount move name navigate need notify
    obtain offer open operate opt optimize order organize override paste pause pay perform
    permit pick place plan play prefer prepare present press prevent print process produce
    prohibit promote protect prove provide publish pull purchase push put query raise reach read
    receive recommend record recover redeem reduce refer refund register regulate reject release
    rely remind remove rename renew replace replicate reply report represent request require
    reserve reset resize resolve restart restore restrict restructure resume retrieve return
    reveal review revoke rotate run sample save scale scan schedule scrape search see select
    sell send separate serve set share ship show sign simplify skip sort specify split start
    stay stop store stream submit subscribe suggest support suppress suspend switch sync
    synchronize tag take test toggle track train transfer transform transmit treat trigger
    troubleshoot tune turn type understand uninstall unlink unsubscribe update upgrade upload
    use validate verify view visit wait watch withdraw work wrap write
    """
)
_PAST = dict(
    pair.split("/")
    for pair in word_list(
        """
    begin/began build/built buy/bought choose/chose cost/cost cut/cut drive/drove find/found
    lose/lost lead/led bind/bound get/got give/gave go/went grow/grew have/had hide/hid
    hold/held keep/kept leave/left let/let make/made mean/meant pay/paid prove/proved put/put
    read/read run/ran see/saw sell/sold send/sent set/set show/showed split/split take/took
    understand/understood withdraw/withdrew write/wrote
    """
    )
)
_DOUBLED = set(
    word_list(
        """
    begin cut drag drop embed emit get let log map opt permit plan put reset run set ship skip
    split stop submit swap tag transmit wrap transfer scan refer
    """
    )
)
# Verbs that are as often nouns: only a following article shows them to be verbs.
_ALSO_NOUNS = set(
    word_list(
        """
    access answer back block book call cause change charge claim contact control copy cost cover
    dispute display drive drop email file filter fix format group head help host import increase
    label launch lift link list lock log map mark match measure monitor mount move name need
    offer open order pause place plan play present press print process purchase query record
    refund release report request reset return review sample scale schedule scrape search share
    show sign scan split start stay stop store stream support switch sync tag test track train
    transfer trigger type update upgrade use view visit work wrap decrease export estimate
    duplicate set
    """
    )
)
_NOUN_GERUNDS = set(
    word_list(
        """
    shipping pricing billing building meaning setting marketing processing testing training
    tracking reporting loading scheduling filtering
    """
    )
)


def _suffixed(verb: str, suffix: str) -> str:
    if verb in _DOUBLED:
        return verb + verb[-1] + suffix
    if verb.endswith("e"):
        return verb[:-1] + suffix
    if suffix == "ed" and re.search(r"[^aeiou]y$", verb):
        return verb[:-1] + "ied"
    return verb + suffix


def _third(verb: str) -> str:
    if verb == "have":
        return "has"
    if re.search(r"[^aeiou]y$", verb):
        return verb[:-1] + "ies"
    return verb + ("es" if re.search(r"(?:s|x|z|ch|sh|o)$", verb) else "s")


def _unsuffixed(third: str) -> str:
    if third.endswith("ies"):
        return third[:-3] + "y"
    return third[:-2] if re.search(r"(?:sses|xes|ches|shes|oes)$", third) else third[:-1]


BASES = frozenset(_VERBS)
THIRDS = {_third(verb): verb for verb in _VERBS}
_PASTS = {_PAST.get(verb) or _suffixed(verb, "ed"): verb for verb in _VERBS}
GERUNDS = {_suffixed(verb, "ing"): verb for verb in _VERBS}
GERUND_OF = {verb: gerund for gerund, verb in GERUNDS.items()}
AUXILIARIES = frozenset(
    word_list(
        """
    is are was were can could will would may might must should cannot has have had
    """
    )
)
DETERMINERS = frozenset(
    word_list(
        """
    a an the your my our their its his her this that these those each every any all some no
    another both many most several one two three four five
    """
    )
)
PRONOUNS = frozenset(
    word_list(
        """
    i it he she they we this that these those there here such them him us who which what both
    neither either one others another some many most all none
    """
    )
)
PREPOSITIONS = frozenset(
    word_list(
        """
    about above after against among around as at before below between by during for from in into
    like near of off on onto out over per since than through to toward towards under until up
    upon using via with within without according based due
    """
    )
)
_BREAKS = frozenset(
    word_list(
        """
    once whenever given assuming that which who whom whose where when while if because although
    though unless whether how why so but then not also only and/or
    """
    )
)
_COMMON = re.compile(
    r"\b(?:the|of|and|is|are|to|that|with|you|your|by|from|which|this|it|or|be|was|were|for|has|have|"
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


def third_person(word: str) -> bool:
    return word in THIRDS


def is_past(word: str) -> bool:
    return word in _PASTS


def imperative(words: str) -> bool:
    """Tell whether the words begin with a command ("Click the button")."""
    first, _, rest = words.partition(" ")
    verb = first.lower().strip(",")
    if verb not in BASES or not rest:
        return False
    second = rest.split(" ", 1)[0].lower()
    if verb in _ALSO_NOUNS:
        return second in DETERMINERS or second in ("up", "out", "in", "on", "to", "off")
    return second not in AUXILIARIES


def base_of_gerund(words: str) -> str | None:
    """Return "create a campaign" for "Creating a campaign", None where it may be a noun."""
    first, _, rest = words.partition(" ")
    verb = GERUNDS.get(first.lower())
    if verb is None or not rest:
        return None
    if (also := re.match(r"and (\w+)\b", rest)) and also[1] in GERUNDS:
        return f"{verb} and {GERUNDS[also[1]]}{rest[also.end() :]}"
    second = rest.split(" ", 1)[0].lower()
    if (verb in _ALSO_NOUNS or first.lower() in _NOUN_GERUNDS) and second not in DETERMINERS:
        return None
    return f"{verb} {rest}" if second not in AUXILIARIES | {"of", "and", "or"} else None


def clause(words: str) -> Clause | None:
    """Find subject and finite verb, or None where a rule cannot be sure of them."""
    tokens = list(re.finditer(r"\S+", words[:400]))
    for i, token in enumerate(tokens[:14]):
        word = token[0].lower()
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
        (after in DETERMINERS and after != "that") or after[0].isdigit() or after in ("you", "to")
    )
    if verb := THIRDS.get(word):
        shown = tokens[i + 1][0]
        opens = opens or (
            shown[0].isupper() and shown not in ("MUST", "SHOULD", "MAY") and before[-1] not in "s."
        )
        if not opens and (after in _PASTS or after in THIRDS):
            return verb in ("help", "let") and after in BASES
        told = after == "that" and verb not in _ALSO_NOUNS
        helps = verb in ("help", "let") and after in BASES
        return opens or told or helps or (verb not in _ALSO_NOUNS and after not in AUXILIARIES)
    if word in _PASTS:
        passive = any(t[0].lower() in AUXILIARIES for t in tokens[i + 1 : i + 9])
        return opens and not passive
    if re.search(r"[a-z]{3}[^sui]s$", word) and before[-1] not in "s,":
        return after in ("a", "an", "the", "its", "your", "all", "both")
    return word in BASES and before.endswith("s") and (opens or word not in _ALSO_NOUNS)


_QUANTITIES = frozenset(
    word_list("several some many most other another few further please things no thank")
)
_FAINT_SUBJECT = re.compile(
    r"\b(?:stud(?:y|ies)|authors?|papers?|article|report|examples?|reasons?|difference|purpose|idea|"
    r"goal|fact|problem|point|limitation|approach|results?|changes|aim|intent|value|option)$"
)


def _clause_at(words: str, tokens: list[re.Match[str]], i: int) -> Clause | None:
    subject = words[: tokens[i].start()].rstrip()
    parts = subject.lower().split()
    if (
        parts[0] in PRONOUNS
        and (parts[0] not in ("all", "both", "one") or parts[1:2] in ([], ["of"]))
        or parts[0] in PREPOSITIONS
        or imperative(subject)
        or parts[-1] in PREPOSITIONS | DETERMINERS | {"and", "or", "to"}
        or parts[0] in _BREAKS
        or parts[0].endswith("ly")
        or i + 1 >= len(tokens)
        or "’" in parts[0]
        or "'" in parts[0]
        or parts[0] in _QUANTITIES
        or parts[-1] in PRONOUNS
        or (len(parts) < 4 and _FAINT_SUBJECT.search(subject))
        or re.search(r" (?:An?|The|This|These|You|Your|We|If|It|In|When)\b", subject)
    ):
        return None
    finite, auxiliary, verb = tokens[i][0], tokens[i][0].lower(), ""
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
    if auxiliary in ("has", "have", "had") and not participle and after in PREPOSITIONS:
        return None
    if auxiliary in AUXILIARIES and not (auxiliary in ("has", "have", "had") and not participle):
        return Clause(subject, len(subject), auxiliary, "", finite, words[rest_start:], rest_start)
    if auxiliary in THIRDS or (auxiliary not in BASES and auxiliary.endswith("s")):
        auxiliary, verb = "does", THIRDS.get(auxiliary) or _unsuffixed(auxiliary)
    elif auxiliary in _PASTS:
        auxiliary, verb = "did", _PASTS[auxiliary]
    else:
        auxiliary, verb = "do", auxiliary
    return Clause(
        subject, len(subject), auxiliary, adverb + verb, finite, words[rest_start:], rest_start
    )
