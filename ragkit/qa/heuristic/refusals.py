"""Which drafts of the `heuristic` teacher are refused: nothing is better than nonsense."""

from __future__ import annotations

import re

from ragkit.qa.heuristic import wording
from ragkit.qa.heuristic.markup import has_markup
from ragkit.qa.heuristic.page import Draft

MAX_QUESTION_WORDS = 30
MAX_CLOZE_WORDS = 22  # a longer one is most of its sentence
MIN_QUESTION_WORDS = 4
MAX_ANSWER_CHARS = 700

_QUESTION_DEBRIS = re.compile(
    r"[|;<>{}=\[\]\\*#~^]|https?:|www\.|&[a-z]+;|\b(\w+) \1\b|[,;:.?]\s*\?|\s[.,;]|\?."
    r"|\b(?:and|or|the|an?|of|that|as|which|is|are|even|only|not) ?\?"
)
_EMPTY_QUESTION = re.compile(
    r"\b(?:learn (?:more|how)|read more|(?:if|when) (?:both|the two)|find out more|get started|"
    r"reach out|do so|do this|for example|e\.g\.|"
    r"I (?:am|might be|may be) (?:wondering|interested|curious|unsure|reading)|I wonder|yourself|"
    r"tell us|in my opinion|to me|in doubt|as expected|true need|I have (?:any )?questions|"
    r"of course|in other words|"
    r"the (?:PEP|authors?|reader|patch|same|latter|former|rest|others?|next|remaining|document)|"
    r"as (?:mentioned|noted|described|discussed|explained|shown|stated|well)|an?other|PEP authors?|"
    r"[Ww]hat (?:is|are|was|were) any|[Ww]hat (?:is|are|was|were) (?:issues?|notes?|it))\b"
    r"|^What (?:is|are|was|were|does|do|did|has|have|will|can) (?:a new|new|an additional|"
    r"each) \w+ "
    r"(?:added|introduced|proposed|provided)|tried from|\bthere(?: is|'s) (?:an?|no|some) \w+\?"
    r"|^How do I \w+\?|\b(?:whether|if|how|why) \S+\?$|\b(?:and|or) (?:while|if|when|because)\b"
    r"|^(?:What|How) about\b|\bon the (?:one|other) hand\b|\b(?:proud|excited|happy|pleased|"
    r"glad) to\b"
)
# Two statements in one question: "What is the key and the value is the name?"
_TWO_STATEMENTS = re.compile(
    r"\b(?:and|but|or) (?:\S+ ){1,8}?(?:is|are|was|were|will|can|must|has|have|does|became)\b.*\?$"
)
_SECOND_STATEMENT = re.compile(
    r"\b(?:and|but) (?:the |an? |its |their )?(?:[\w-]+ ){1,3}(?:is|are|was|were|will|can|does) "
)
_PRAISE = re.compile(
    r"(?:an?|the|one of (?:the|those)) (?:\w+ly )?(?:most|hard|normal|tricky|difficult|"
    r"work in progress|great|good|best|"
    r"biggest|largest|better|key|"
    r"only|main|major|"
    r"big|"
    r"important|common|valid|recommended|simple|nice|useful|natural|obvious|likely|possible|"
    r"potential|real|clear|perfect|powerful|few|core|stable|huge|critical|"
    r"crucial|poor|sticky|sign|goal|topic|situation|mess|popular|typical|perpetual|lot|bit|must|"
    r"no-op|problem|result|way|reason|"
    r"question|matter|step|case|subset|superset|consequence)\b|one of (?:the|those)\b",
    re.IGNORECASE,
)
_POOR_OBJECT = re.compile(
    r"(?:this|these|it|them|those|that one|its(?! own)|their(?! own)|very|a lot|much|many|more|"
    r"less|"
    r"such|some|something|anything|nothing|no|so|too|not|to be|whether|what|how|that|there|here|"
    r"default$|hand$|design$|far$|the extent|a few|several|a number of|various|certain|different|"
    r"as (?:a|well|the)|"
    r"left to right|"
    r"one\s+another|each other|(?:long|soon|well|far) as|the (?:same|following|above|below|"
    r"rest))\b",
    re.IGNORECASE,
)
_POINTING = re.compile(r"\b(?:this|these|those|above|below|following|here|aforementioned)\b")
_DANGLING_ANSWER = re.compile(
    r"(?:\b(?:and|or|but|of|the|an?|to|in|for|with|by|from|as|at|on|that|which|if|because|so|than|"
    r"since|when|e\.g\.|i\.e\.|not|is|are|be|its|their|also|only)|[,:(–—-])$"
)
_EMPTY_ANSWER = re.compile(
    r"(?:and|or|also|\w+ing$|as follows|see here|(?:please )?(?:follow|see|refer to|read) .*"
    r"(?:below|above|steps|instructions|section|guide|page)\b)",
    re.IGNORECASE,
)


def acceptable(draft: Draft, text: str) -> bool:
    """Tell whether a draft may be asked: form, then sense of the question, then of the answer."""
    answer = text[draft.start : draft.end]
    question = draft.question
    count = len(question.split())
    least = 2 if draft.as_written else MIN_QUESTION_WORDS
    if not least <= count <= MAX_QUESTION_WORDS or not re.search(r"\w", answer):
        return False
    if len(answer) > MAX_ANSWER_CHARS or answer.strip() == text.strip() or has_markup(answer):
        return False
    if (
        _QUESTION_DEBRIS.search(question)
        or question.count('"') % 2
        or (
            question.count("“") != question.count("”") or question.count("(") != question.count(")")
        )
    ):
        return False
    asked, told = flat(question), flat(answer)
    if (
        not told
        or f" {told} " in f" {asked} "
        or (wording.content(answer) and wording.content(answer) <= wording.content(question))
    ):
        return False
    if draft.as_written and re.search(r"^(?:What|How) about\b|\btell us\b|yourself\b", question):
        return False
    if draft.as_written:
        return True
    if _EMPTY_ANSWER.match(answer) or _EMPTY_QUESTION.search(question):
        return False
    if question.startswith("Complete:"):
        return True
    if _DANGLING_ANSWER.search(answer) or answer.count("(") != answer.count(")"):
        return False
    if draft.kind not in ("heading", "list") and _TWO_STATEMENTS.search(question):
        return False
    if draft.kind == "definition" and (
        (re.match(r"What (?:is|are|was|were)\b", question) and _PRAISE.match(answer))
        or " and " in question
        or _SECOND_STATEMENT.search(answer)
    ):
        return False
    if draft.kind in ("cloze", "number", "definition") and _POINTING.search(answer):
        return False
    if draft.kind == "cloze" and (count > MAX_CLOZE_WORDS or re.search(", (?:and|but) ", question)):
        return False
    if draft.kind == "cloze" and (_POOR_OBJECT.match(answer) or len(answer.split()) > 45):
        return False
    least = 2 if draft.kind == "cloze" else 1
    return not wording.is_unclear(question) and len(wording.content(question)) >= least


def is_debris(question: str) -> bool:
    """Tell whether a question shows signs of markup or ends in the middle of a phrase."""
    return bool(_QUESTION_DEBRIS.search(question))


def flat(words: str) -> str:
    """Return the words in lower case, with one blank between them and no punctuation."""
    return " ".join(re.findall(r"\w+", words.lower()))
