"""Verbs and their forms, for the `heuristic` teacher: "scrape", "scrapes", "scraped", "scraping".

A verb that is not listed is no verb to most rules: a missed question is better than a wrong one.
"""

from __future__ import annotations

import re


def word_list(listed: str) -> list[str]:
    """Return the words of a list that is written as one string."""
    return listed.split()


_VERBS = word_list(
    """
    accept access achieve activate add adjust affect aggregate allow analyze answer apply
    approve archive arrange ask assign attach attend authenticate avoid back begin belong bind
    block book browse build buy cache calculate call cancel capture carry cause change charge check
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
ALSO_NOUNS = set(
    word_list(
        """
    access answer back block book build call cache code design draft hash import merge result
    test cause change charge claim contact control copy cost cover
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
WITH_PARTICLE = frozenset(
    word_list("back check group link list lock log mark move open set sign start stop switch sync")
)
NOUN_GERUNDS = set(
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


def unsuffixed(third: str) -> str:
    """Return the base of a third person of a verb that is in no list."""
    if third.endswith("ies"):
        return third[:-3] + "y"
    return third[:-2] if re.search(r"(?:sses|xes|ches|shes|oes)$", third) else third[:-1]


BASES = frozenset(_VERBS)
THIRDS = {_third(verb): verb for verb in _VERBS}
PASTS = {_PAST.get(verb) or _suffixed(verb, "ed"): verb for verb in _VERBS}
GERUNDS = {_suffixed(verb, "ing"): verb for verb in _VERBS}
GERUND_OF = {verb: gerund for gerund, verb in GERUNDS.items()}
