"""What a judge is asked about an answer, and how its replies become a score.

Three criteria: correct against the references, faithful to the passages, preferred to another
system's answer. Each says which cases it applies to, what it asks, how it reads the replies, and
which answers with a known verdict can be planted to try a judge. Who judges, and where replies are
kept, is others' business. What cannot be read is a judgement that failed, never a score.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Protocol

from ragkit.data.schema import Passage, Turn
from ragkit.evaluation.answers import normalize_answer, token_f1
from ragkit.models.chats import TEXT, Schema, object_schema
from ragkit.models.replies import json_values, without_thought
from ragkit.rag.sentences import sentences

Scale = Literal["verdict", "rubric"]
NO_REPLY = "no reply"
_SCALES: dict[str, dict[str, float]] = {
    "verdict": {"correct": 1.0, "incorrect": 0.0},
    "rubric": {"right": 1.0, "partly": 0.5, "wrong": 0.0},
}
_UNRELATED = 0.3  # token F1 with a reference from which on a planted answer may be right by chance
_KEPT = 500  # characters of a reply that could not be read


@dataclass(frozen=True, slots=True)
class Case:
    """An answer to judge, with what it is judged by.

    document: the source of the question; answer: None where the question got none
    passages: those that the answer was made from
    other: the other system's answer
    """

    id: str
    document: str
    question: str
    answer: str | None
    abstained: bool = False
    answerable: bool = True
    references: tuple[str, ...] = ()
    history: tuple[Turn, ...] = ()
    passages: tuple[Passage, ...] = ()
    other: str | None = None
    other_abstained: bool = False


@dataclass(frozen=True, slots=True)
class Judgement:
    """What became of a case.

    score: None where it failed, or where there is nothing to score
    said: the verdict and its reasons
    failed: why there is no verdict; "" where there is one
    """

    score: float | None
    said: Mapping[str, Any] = field(default_factory=dict)
    failed: str = ""


class Criterion(Protocol):
    """One thing that answers are judged by; `needs` says what a case must have."""

    needs: ClassVar[str]

    @property
    def name(self) -> str:
        """The metric."""

    @property
    def template(self) -> str:
        """The name of the instructions."""

    @property
    def schema(self) -> Schema:
        """The form of a reply."""

    def applies(self, case: Case) -> bool:
        """Return whether the case has a score by this criterion."""

    def settled(self, case: Case) -> Judgement | None:
        """Return the judgement where it is plain without a judge."""

    def asks(self, case: Case) -> list[str]:
        """Return what the judge is asked, a text for each request."""

    def read(self, replies: Sequence[str]) -> Judgement:
        """Return what the replies say.

        Raises:
            ValueError: not of the form that was asked for.
        """

    def planted(self, case: Case, other: Case) -> tuple[Case, Case] | None:
        """Return a case with a high score and one with a low score, made of two questions.

        None where these two do not make such a pair.
        """


@dataclass(frozen=True)
class Correct:
    """Against the references: a verdict (1 or 0), or a rubric of three levels (1, 0.5, 0)."""

    needs: ClassVar[str] = "an answerable question, a reference and an answer"

    scale: Scale
    name: str = "correct"

    @property
    def template(self) -> str:
        """The instructions depend on the scale."""
        return f"correct-{self.scale}"

    @property
    def schema(self) -> Schema:
        """The verdict comes after its reason, which it then rests on."""
        return object_schema(
            reason=TEXT, verdict={"type": "string", "enum": list(_SCALES[self.scale])}
        )

    def applies(self, case: Case) -> bool:
        """As for EM and F1, unanswerable questions have no score."""
        return case.answer is not None and case.answerable and bool(case.references)

    def settled(self, case: Case) -> Judgement | None:
        """An abstention is wrong where there is an answer."""
        return Judgement(0.0, {"reason": "it abstained"}) if case.abstained else None

    def asks(self, case: Case) -> list[str]:
        """Show question, references and answer."""
        return [f"{_asked(case)}\n\n{_references(case)}\n\n{_tagged('answer', case.answer)}"]

    def read(self, replies: Sequence[str]) -> Judgement:
        """Read the verdict, also LocalRQA's: [[correct]] or [[incorrect]] in a text."""
        levels = _SCALES[self.scale]
        said = _only(replies[0], lambda value: _level(value, "verdict", levels))
        if said is None:
            marks = {level for level in levels if f"[[{level}]]" in without_thought(replies[0])}
            if len(marks) != 1:
                raise ValueError(f"{'more than one' if marks else 'no'} verdict in the reply")
            said = {"verdict": marks.pop(), "reason": without_thought(replies[0]).strip()}
        return Judgement(levels[said["verdict"]], said)

    def planted(self, case: Case, other: Case) -> tuple[Case, Case] | None:
        """Give a reference as the answer, and the other question's."""
        foreign = _foreign_reference(case, other)
        if foreign is None:
            return None
        return _answering(case, case.references[0]), _answering(case, foreign)


@dataclass(frozen=True)
class Faithful:
    """By claims: the share of an answer's claims that the passages support."""

    needs: ClassVar[str] = "an answer that is no abstention"

    name: str = "faithful"
    template: str = "faithful"

    @property
    def schema(self) -> Schema:
        """Claims with their verdicts."""
        claim = object_schema(claim=TEXT, supported={"type": "boolean"})
        return object_schema(claims={"type": "array", "items": claim})

    def applies(self, case: Case) -> bool:
        """An abstention claims nothing."""
        return case.answer is not None and not case.abstained

    def settled(self, case: Case) -> Judgement | None:
        """An answer that was made from nothing stands on nothing."""
        return None if case.passages else Judgement(0.0, {"reason": "no passages"})

    def asks(self, case: Case) -> list[str]:
        """Show the passages, the question, which the answer may leave unsaid, and the answer."""
        shown = "\n\n".join(_tagged("passage", p.rendered) for p in case.passages)
        return [f"{shown}\n\n{_asked(case)}\n\n{_tagged('answer', case.answer)}"]

    def read(self, replies: Sequence[str]) -> Judgement:
        """Read the claims; without any there is no score."""
        said = _only(replies[0], _claims)
        if said is None:
            raise ValueError("no list of claims in the reply")
        supported = [claim["supported"] for claim in said["claims"]]
        return Judgement(sum(supported) / len(supported) if supported else None, said)

    def planted(self, case: Case, other: Case) -> tuple[Case, Case] | None:
        """Give a sentence of a passage as the answer, with its passages and with the other's."""
        if not (case.passages and other.passages):
            return None
        sentence = max(sentences(case.passages[0].text), key=len, default="")
        strange = {p.source for p in case.passages}.isdisjoint(p.source for p in other.passages)
        if not (sentence and strange) or any(sentence in p.text for p in other.passages):
            return None
        told = _answering(case, sentence)
        return told, replace(told, passages=other.passages)


@dataclass(frozen=True)
class Preferred:
    """Against another system's answer, in both orders: 1 won, 0 lost, else 0.5."""

    needs: ClassVar[str] = "an answer of both systems"

    name: str = "preferred"
    template: str = "preferred"

    @property
    def schema(self) -> Schema:
        """The place of the better answer comes after the reason."""
        return object_schema(reason=TEXT, better={"type": "string", "enum": ["1", "2", "tie"]})

    def applies(self, case: Case) -> bool:
        """A question that one of them failed on has no score."""
        return case.answer is not None and case.other is not None

    def settled(self, case: Case) -> Judgement | None:
        """Two equal answers, and two abstentions, are a tie."""
        equal = normalize_answer(case.answer or "") == normalize_answer(case.other or "")
        if not (equal or (case.abstained and case.other_abstained)):
            return None
        return Judgement(0.5, {"reason": "the answers are equal" if equal else "both abstained"})

    def asks(self, case: Case) -> list[str]:
        """Show question, references where there are any, and both answers, in either order."""
        about = [_asked(case), *([_references(case)] if case.references else [])]
        if not case.answerable:
            about.append(_tagged("reference", "(none: the documents do not answer the question)"))
        return [
            "\n\n".join([*about, _tagged("answer_1", first), _tagged("answer_2", second)])
            for first, second in ((case.answer, case.other), (case.other, case.answer))
        ]

    def read(self, replies: Sequence[str]) -> Judgement:
        """Read who won in each order; only two wins or two losses are more than a tie."""
        places = {"1": 1.0, "2": 0.0, "tie": 0.5}
        said = [_only(reply, lambda value: _level(value, "better", places)) for reply in replies]
        if any(found is None for found in said):
            raise ValueError("no better answer in the reply")
        first, second = (found for found in said if found is not None)
        won = [places[first["better"]], 1 - places[second["better"]]]
        score = won[0] if won[0] == won[1] else 0.5
        names = {1.0: "won", 0.0: "lost", 0.5: "tie"}
        reasons = [first["reason"], second["reason"]]
        return Judgement(score, {"orders": [names[w] for w in won], "reasons": reasons})

    def planted(self, case: Case, other: Case) -> tuple[Case, Case] | None:
        """Set a reference against the other question's, as the answer and as the baseline's."""
        foreign = _foreign_reference(case, other)
        if foreign is None:
            return None
        right, own = _answering(case, case.references[0]), case.references[0]
        return replace(right, other=foreign), replace(right, answer=foreign, other=own)


def judgement(criterion: Criterion, replies: Sequence[str | None]) -> Judgement:
    """Return what the replies to a case's requests say; None is a request without a reply."""
    found = [reply for reply in replies if reply is not None]
    if len(found) < len(replies):
        return Judgement(None, failed=NO_REPLY)
    if not all(reply.strip() for reply in found):
        return Judgement(None, failed="an empty reply")
    try:
        return criterion.read(found)
    except ValueError as error:
        said = {"replies": [reply[:_KEPT] for reply in found]}
        return Judgement(None, said, failed=str(error))


def _only(
    reply: str, read: Callable[[Mapping[str, Any]], dict[str, Any] | None]
) -> dict[str, Any] | None:
    """Return the one verdict in a reply, or the last of equal ones; None where there is none.

    Raises:
        ValueError: one that is not understood, or several that differ.
    """
    said = [read(value) for value in json_values(reply) if isinstance(value, dict)]
    found = [verdict for verdict in said if verdict is not None]
    if any({**verdict, "reason": ""} != {**found[-1], "reason": ""} for verdict in found):
        raise ValueError("more than one verdict in the reply")
    return found[-1] if found else None


def _level(
    value: Mapping[str, Any], key: str, levels: Mapping[str, float]
) -> dict[str, Any] | None:
    """Read one of several words, in brackets or not; None where the key is missing."""
    if key not in value:
        return None
    said = str(value[key]).strip().lower().removeprefix("[[").removesuffix("]]")
    if said not in levels:
        raise ValueError(f"{key}: {str(value[key])[:40]!r} is none of {', '.join(levels)}")
    return {key: said, "reason": str(value.get("reason") or "")}


def _claims(value: Mapping[str, Any]) -> dict[str, Any] | None:
    if "claims" not in value:
        return None
    claims = value["claims"]
    if not isinstance(claims, list) or not all(
        isinstance(c, dict)
        and isinstance(c.get("claim"), str)
        and isinstance(c.get("supported"), bool)
        for c in claims
    ):
        raise ValueError("claims: not a list of {claim, supported}")
    return {"claims": [{"claim": c["claim"], "supported": c["supported"]} for c in claims]}


def _tagged(tag: str, text: str | None) -> str:
    return f"<{tag}>\n{(text or '').strip() or '(empty: it gave no answer)'}\n</{tag}>"


def _asked(case: Case) -> str:
    """Return the question, with the conversation before it."""
    names = {"user": "User", "assistant": "Assistant"}
    turns = [f"{names.get(turn.role, turn.role)}: {turn.content}" for turn in case.history]
    last = f"User: {case.question}" if turns else case.question
    return _tagged("question", "\n".join([*turns, last]))


def _references(case: Case) -> str:
    return "\n\n".join(_tagged("reference", reference) for reference in case.references)


def _answering(case: Case, answer: str) -> Case:
    return replace(case, answer=answer, abstained=False, other_abstained=False)


def _foreign_reference(case: Case, other: Case) -> str | None:
    """Return the other question's first reference, where it cannot be right for this one."""
    if not (case.references and other.references and case.answerable):
        return None
    foreign = other.references[0]
    return foreign if token_f1(foreign, case.references) < _UNRELATED else None
