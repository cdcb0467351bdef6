"""A model as a judge: tried on planted answers, then asked, and no judgement is bought twice.

What is asked and what a reply means is `ragkit.evaluation.judging`'s business.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import NoReturn

import numpy as np

from ragkit.data.files import read_text, sha256_text
from ragkit.data.journal import passage_sha256
from ragkit.errors import DataError, EndpointError, ModelError
from ragkit.evaluation.controls import Control, plant, shares
from ragkit.evaluation.judging import NO_REPLY, Case, Criterion, Judgement, judgement
from ragkit.log import logger
from ragkit.qa.asking import Desk, Item
from ragkit.qa.cost import Estimate

Works = Callable[[], Iterable[tuple[Case, int]]]  # cases with their replicates, the same each time
_SHOWN = 3  # examples in a message
_ENOUGH = 20  # equal scores that are no chance
_ANY = Case("", "", "(question)", "(answer)", references=("(reference)",), other="(other)")


def read_instructions(criterion: Criterion, folder: Path | None) -> str:
    """Read a criterion's template, the user's own where the folder has one."""
    name = f"{criterion.template}.txt"
    if folder and (folder / name).exists():
        return read_text(folder / name).strip()
    packaged = resources.files("ragkit.evaluation") / "templates" / name
    return packaged.read_text(encoding="utf-8").strip()


class Judge:
    """A model that judges cases by criteria, by instructions for each."""

    def __init__(self, desk: Desk, instructions: Mapping[str, str]) -> None:
        """Prepare to ask; instructions: by the criterion's name."""
        self.desk, self.instructions = desk, instructions

    def prompt_sha256(self, criterion: Criterion) -> str:
        """Hash all of a prompt but what is judged: the instructions and the frame."""
        return sha256_text(self.instructions[criterion.name], *criterion.asks(_ANY))

    def ask(self, criterion: Criterion, works: Works) -> None:
        """Ask what the journal does not hold; a request that fails is left out."""
        self.desk.ask(lambda: self._items(criterion, works()), criterion.schema)

    def estimate(self, criterion: Criterion, works: Works) -> Estimate:
        """Count what is missing."""
        return self.desk.estimate(self._items(criterion, works()))

    def judged(self, criterion: Criterion, case: Case, replicate: int = 0) -> Judgement:
        """Return the judgement that the journal holds."""
        items = self._of(criterion, case, replicate)
        return judgement(criterion, [self.desk.answer(item) for item in items])

    def _items(self, criterion: Criterion, works: Iterable[tuple[Case, int]]) -> Iterator[Item]:
        return (item for case, again in works for item in self._of(criterion, case, again))

    def _of(self, criterion: Criterion, case: Case, replicate: int) -> list[Item]:
        system = {"role": "system", "content": self.instructions[criterion.name]}
        subject = passage_sha256(*(p.text for p in case.passages))
        return [
            Item(
                [system, {"role": "user", "content": asked}],
                subject,
                f"judge {criterion.name} {sha256_text(asked)[:16]} {replicate}",
                replicate,
            )
            for asked in criterion.asks(case)
        ]


@dataclass(frozen=True)
class Docket:
    """The cases of one criterion.

    settled: judgements that need no judge, by question
    asked: cases for the judge; controls: planted ones, which it is tried on first
    again: cases that are asked `replicates` times more
    """

    criterion: Criterion
    settled: Mapping[str, Judgement]
    asked: Sequence[Case]
    controls: Sequence[Control]
    again: Sequence[Case] = ()
    replicates: int = 0

    def trials(self) -> Iterator[tuple[Case, int]]:
        """Yield what is asked first."""
        return ((control.case, 0) for control in self.controls)

    def works(self) -> Iterator[tuple[Case, int]]:
        """Yield what is asked of a judge that has stood the trial."""
        again = {case.id for case in self.again}
        for case in self.asked:
            for replicate in range(1 + self.replicates * (case.id in again)):
                yield case, replicate

    def everything(self) -> Iterator[tuple[Case, int]]:
        """Yield both."""
        yield from self.trials()
        yield from self.works()


@dataclass(frozen=True)
class Verdicts:
    """What became of a docket.

    tried: judgements of the controls; asked: those of the cases, by question
    again: of each case that was asked again, all its judgements, the first included
    constant: the judge gave one and the same score to everything
    """

    docket: Docket
    tried: Sequence[Judgement]
    asked: Mapping[str, Judgement]
    again: Mapping[str, Sequence[Judgement]]
    constant: bool

    @property
    def judgements(self) -> dict[str, Judgement]:
        """Those of all cases, settled ones included."""
        return {**self.docket.settled, **self.asked}

    @property
    def scores(self) -> dict[str, float]:
        """The scores of all cases that have one."""
        return {q: j.score for q, j in self.judgements.items() if j.score is not None}

    @property
    def failed(self) -> list[str]:
        """The questions that the judge failed on."""
        return [question for question, j in self.asked.items() if j.failed]


def make_docket(
    criterion: Criterion,
    cases: Sequence[Case],
    controls: int,
    again: int,
    replicates: int,
    seed: int,
) -> Docket:
    """Sort the cases of a criterion, plant controls and draw what is asked again.

    controls: planted cases; again: cases that are asked `replicates` times more
    Raises:
        DataError: it applies to no case.
    """
    found = [case for case in cases if criterion.applies(case)]
    if not found:
        raise DataError(
            f"criteria: {criterion.name}: none of {len(cases)} questions can be judged by it; "
            f"it needs {criterion.needs}"
        )
    settled = {case.id: plain for case in found if (plain := criterion.settled(case))}
    asked = [case for case in found if case.id not in settled]
    drawn = np.random.default_rng(seed).permutation(len(asked))[: again if replicates else 0]
    return Docket(
        criterion,
        settled,
        asked,
        plant(criterion, cases, controls, seed) if asked else [],
        [asked[i] for i in sorted(drawn)],
        replicates,
    )


def try_out(judge: Judge, docket: Docket, control_accuracy: float) -> list[Judgement]:
    """Return the judgements of the planted cases.

    control_accuracy: share of the right and of the wrong ones that the judge must tell
    Raises:
        ModelError: a judge that does not tell them.
        EndpointError: too few replies came to know.
    """
    judge.ask(docket.criterion, docket.trials)
    tried = [judge.judged(docket.criterion, control.case) for control in docket.controls]
    counts = shares(docket.controls, tried)
    if any(holds < control_accuracy * of for holds, of in counts.values()):
        _refuse(judge, docket, tried, control_accuracy)
    return tried


def hear(judge: Judge, docket: Docket, tried: Sequence[Judgement], max_failed: float) -> Verdicts:
    """Return the judgements of a judge that has stood its trial.

    tried: what it made of the planted cases
    max_failed: share of the cases that may stay without a judgement
    Raises:
        EndpointError: more failed than may; what was judged is in the journal.
        ModelError: one and the same score for all, and it did not tell the planted ones.
    """
    criterion = docket.criterion
    judge.ask(criterion, docket.works)
    asked = {case.id: judge.judged(criterion, case) for case in docket.asked}
    _check_failed(judge, criterion, asked, max_failed)
    again = {
        case.id: [judge.judged(criterion, case, n) for n in range(1 + docket.replicates)]
        for case in docket.again
    }
    constant = _is_constant(judge, docket, tried, asked)
    return Verdicts(docket, tried, asked, again, constant)


def _refuse(judge: Judge, docket: Docket, tried: Sequence[Judgement], least: float) -> NoReturn:
    """Raise the error of a trial that was not stood, or could not be held."""
    limit = judge.desk.budget.exhausted
    if silent := sum(j.failed == NO_REPLY for j in tried):
        raise EndpointError(
            f"{f'{limit} is reached: ' if limit else ''}{silent} of {len(tried)} planted answers, "
            f"on which the judge is tried by {docket.criterion.name!r}, got no reply; the others "
            "are in the journal: the same command asks only for the missing ones"
        )
    pairs = zip(docket.controls, tried, strict=True)
    wrong = [
        f"  {c.case.id}, planted as {'right' if c.right else 'wrong'}: {_told(j)}"
        for c, j in pairs
        if not c.holds(j)
    ]
    counts = shares(docket.controls, tried).items()
    told = ", ".join(f"{holds} of {of} {name} ones" for name, (holds, of) in counts)
    raise ModelError(
        f"{judge.desk.config.model} is not fit to judge by {docket.criterion.name!r}: of answers "
        f"planted with a known verdict it told {told}, and control_accuracy is {least:.0%}\n"
        + "\n".join(wrong[:_SHOWN])
        + "\nNothing else was asked. Take another judge, or give it clearer instructions (prompts)."
    )


def _check_failed(
    judge: Judge, criterion: Criterion, asked: Mapping[str, Judgement], most: float
) -> None:
    failed = {question: j for question, j in asked.items() if j.failed}
    if len(failed) <= most * len(asked):
        return
    silent = sum(j.failed == NO_REPLY for j in failed.values())
    limit = judge.desk.budget.exhausted
    lines = [
        f"{f'{limit} is reached: ' if limit else ''}{len(failed):,} of {len(asked):,} judgements "
        f"by {criterion.name!r} failed, more than max_failed ({most:.0%})",
        *[f"  {question}: {_told(j)}" for question, j in failed.items()][:_SHOWN],
    ]
    if silent:
        lines.append(
            f"{silent:,} got no reply; the others are in the journal: the same command asks only "
            "for the missing ones."
        )
    if silent < len(failed):
        lines.append(
            f"{len(failed) - silent:,} replies cannot be read, and are not bought again: take "
            "another judge, or a higher max_failed, by which these questions have no score."
        )
    raise EndpointError("\n".join(lines))


def _is_constant(
    judge: Judge, docket: Docket, tried: Sequence[Judgement], asked: Mapping[str, Judgement]
) -> bool:
    """Return whether all scores are one, with which a judge is trusted that told the controls.

    Raises:
        ModelError: they are, and nothing shows that the judge can say anything else.
    """
    scores = [j.score for j in asked.values() if j.score is not None]
    if len(scores) < _ENOUGH or len(set(scores)) > 1:
        return False
    said = (
        f"{judge.desk.config.model} gave {scores[0]:g} by {docket.criterion.name!r} to every one "
        f"of {len(scores)} answers"
    )
    if any(2 * holds <= of for holds, of in shares(docket.controls, tried).values()):
        raise ModelError(
            f"{said}, and no planted answers show that it can tell right from wrong: it may say so "
            "of everything"
        )
    logger.warning("%s; it did tell the planted right answers from the wrong ones", said)
    return True


def _told(judged: Judgement) -> str:
    """Return in a line what a judge made of a case."""
    if not judged.failed:
        return f"judged {'without a score' if judged.score is None else f'{judged.score:g}'}"
    replies = judged.said.get("replies", [])
    shown = f": {' '.join(replies[-1].split())[:160]!r}" if replies else ""
    return f"{judged.failed}{shown}"
