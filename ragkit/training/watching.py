"""How good a generator is on dev questions while it is trained: its answers, and its loss.

Of several processes each answers its share. How answers are made is the caller's business.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ragkit.config.generating import Watching
from ragkit.data.files import read_jsonl, write_jsonl
from ragkit.data.schema import Example
from ragkit.errors import DataError
from ragkit.evaluation.answers import exact_match, rouge, token_f1
from ragkit.log import logger
from ragkit.models import ranks
from ragkit.training.distributed import rank, world_size
from ragkit.training.fitting import Model, Objective

Answering = Callable[[Model, Sequence[Example]], Sequence[tuple[str, bool]]]


@dataclass(frozen=True)
class Dev:
    """Dev questions, how they are answered, and what the loss is computed of.

    answer: (text, whether it declines) of each question, by the model as it is
    items: of the examples that a loss can be computed of
    """

    examples: Sequence[Example]
    watching: Watching
    answer: Answering
    items: Sequence[Any]
    batch_size: int
    folder: Path

    def __post_init__(self) -> None:
        """Refuse what the metric cannot be computed of.

        Raises:
            DataError: no question has a reference answer, or none can be learned.
        """
        metric, count = self.watching.metric, len(self.examples)
        if metric == "loss" and not self.items:
            raise DataError(
                f"dev: of none of its {count} questions can a loss be computed (no room in "
                "max_length, or no answer in their passages); set selection.metric: f1"
            )
        if metric != "loss" and not any(e.answerable and e.answers for e in self.examples):
            raise DataError(
                f"dev: none of its {count} questions has a reference answer, of which "
                f"selection.metric: {metric} is computed; give other examples, or set it to loss"
            )

    def __call__(self, model: Model, objective: Objective, step: int) -> dict[str, float]:
        """Return the dev metrics, the same in every process; write and log samples."""
        scores = {}
        if self.items:
            scores["loss"] = dev_loss(model, objective, self.items, self.batch_size)
        if self.watching.metric == "loss" and not self.watching.samples:
            return scores
        asked = self.examples
        if self.watching.metric == "loss":
            asked = asked[: self.watching.samples]
        mine = list(asked)[rank() :: world_size()]
        answers = ranks.collected(list(zip(mine, self.answer(model, mine), strict=True)))
        self._show(dict((e.id, text) for e, (text, _) in answers), step)
        return scores if self.watching.metric == "loss" else scores | answer_scores(answers)

    def _show(self, answers: Mapping[str, str], step: int) -> None:
        """Add what the model says at this step to samples.jsonl, and log it."""
        if not self.watching.samples or rank():
            return
        file = self.folder / "samples.jsonl"
        earlier = [r for r in read_jsonl(file) if r["step"] < step] if file.exists() else []
        shown = list(self.examples)[: self.watching.samples]
        now = [
            {
                "step": step,
                "id": e.id,
                "question": e.question,
                "answer": answers[e.id],
                "references": list(e.answers),
            }
            for e in shown
        ]
        write_jsonl(file, [*earlier, *now])
        for e in shown:
            wanted = e.answers[0] if e.answers else "(unanswerable)"
            said = answers[e.id] or "(nothing)"
            logger.info("  %s\n    -> %s\n    reference: %s", e.question, said, wanted)


def answer_scores(
    answers: Sequence[tuple[Example, tuple[str, bool]]],
) -> dict[str, float]:
    """Return the means of em, f1 and rouge_l over answerable questions; a refusal scores 0.

    With unanswerable ones also `refused`, the share of them that is declined.
    """
    scores: dict[str, list[float]] = {"em": [], "f1": [], "rouge_l": [], "refused": []}
    for example, (text, declined) in answers:
        if not example.answerable:
            scores["refused"].append(float(declined))
        elif example.answers:
            said = "" if declined else text
            scores["em"].append(exact_match(said, example.answers))
            scores["f1"].append(token_f1(said, example.answers))
            scores["rouge_l"].append(rouge(said, example.answers)["rouge_l"])
    return {name: sum(values) / len(values) for name, values in scores.items() if values}


def dev_loss(model: Model, objective: Objective, items: Sequence[Any], batch_size: int) -> float:
    """Return the loss of a target, the mean over all targets of the items.

    Every process does as many batches, so that a model in shards is whole in each; the last are
    repeated where they do not come out even, and not counted twice.
    """
    size, mine = world_size(), rank()
    starts = range(0, len(items), batch_size)
    device = next(model.parameters()).device
    sums = torch.zeros(2, dtype=torch.float64)
    for turn in range(-(-len(starts) // size)):
        number = turn * size + mine
        start = starts[min(number, len(starts) - 1)]
        batch = objective.collate(list(items[start : start + batch_size]))
        moved = {k: v.to(device) if torch.is_tensor(v) else v for k, v in batch.items()}
        with torch.no_grad():
            loss = objective.loss(model, moved)
        if number < len(starts):
            count = int((batch["labels"] != -100).sum())
            sums += torch.tensor([float(loss), count], dtype=torch.float64)
    total, targets = torch.tensor(ranks.collected([sums.tolist()])).sum(dim=0).tolist()
    return float(total / max(targets, 1))
