"""What asking models may come to, told before the first request.

Requests for questions are planned one by one. What is asked about the questions later cannot be
known yet: it is counted as if all questions that are asked for came and passed the filters.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ragkit.qa.asking import Desk
from ragkit.qa.cost import Estimate, prompt_bytes
from ragkit.qa.generation import Generation
from ragkit.qa.prompts import CONVERSATION
from ragkit.qa.teachers import Model

_QUESTION = "How long does the battery of the gateway last when the power supply fails?"
_ANSWER = "The battery lasts for 72 hours after the power supply fails."


@dataclass(frozen=True)
class _Part:
    name: str
    desk: Desk
    found: Estimate

    @property
    def dollars(self) -> float | None:
        """What it may cost; None where no price is known."""
        return self.desk.dollars(self.found.prompt_tokens, self.found.completion_tokens)


def forecast(work: Generation, exercises: int = 0) -> Iterator[str]:
    """Yield a line for each thing that models are asked, and one for all of them.

    exercises: of a reading text that the teacher writes; 0: it writes none
    """
    parts = list(_parts(work, exercises))
    for part in parts:
        yield f"{part.name}: {part.desk.describe(part.found)}"
    if len(parts) > 1:
        yield _total(parts)


def _parts(work: Generation, exercises: int) -> Iterator[_Part]:
    teacher = work.teacher
    if isinstance(teacher, Model):
        yield _Part("questions", teacher.desk, teacher.estimate(work.plan.requests()))
        if exercises:
            reading = teacher.estimate(work.reading_requests(exercises))
            yield _Part("reading texts", teacher.desk, reading)
    for role, desk in (("answers", work.answers), ("critic", work.critic)):
        if isinstance(desk, Desk):
            yield _Part(role, desk, _later(role, desk, work))


def _later(role: str, desk: Desk, work: Generation) -> Estimate:
    """Count what is asked about questions, all of them or (critic) all but those for the test."""
    found = Estimate(desk.config.model, expected_tokens=desk.expected_tokens, ahead=True)
    for request in work.plan.requests():
        if role == "critic" and work.split_of[request.source] == "test":
            continue
        n = request.n or work.plan.n
        count = work.prompts.turns if request.style == CONVERSATION else n
        if role == "critic":
            chat = work.prompts.critic(request.passages, _QUESTION, _ANSWER)
        else:
            chat = work.prompts.answer(request.passages, _QUESTION)
        found.requests += count
        found.missing += count
        found.prompt_bytes += count * prompt_bytes(chat)
    return found


def _total(parts: Iterable[_Part]) -> str:
    known = sum(part.dollars or 0.0 for part in parts)
    unknown = dict.fromkeys(part.found.model for part in parts if part.dollars is None)
    requests = sum(part.found.missing for part in parts)
    line = f"all together: {requests:,} requests, {known:,.2f} $"
    return f"{line} and what {', '.join(unknown)} costs: no price known" if unknown else line
