"""From examples to what a generator learns from them: prompt and answer, in tokens."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ragkit.data.schema import Example, Passage
from ragkit.errors import DataError
from ragkit.log import logger
from ragkit.rag.prompting import Prompter
from ragkit.training.given import Given
from ragkit.training.items import Item


@dataclass
class Questions:
    """Examples, the passages that they are given, and the prompter that writes both as tokens.

    examples: those that can be learned from; see `usable`
    """

    examples: Sequence[Example]
    given: Given
    prompter: Prompter

    def item(self, number: int, epoch: int) -> Item:
        """Return what is learned from an example in an epoch."""
        example = self.examples[number]
        found = self._written(example, self.given.training(example, epoch))
        assert found is not None, "checked by `usable`"
        return found

    def dev_item(self, number: int) -> Item | None:
        """Return the same with the passages of an evaluation; None where it has no room."""
        example = self.examples[number]
        return self._written(example, self.given.evaluation(example))

    def _written(self, example: Example, passages: Sequence[Passage]) -> Item | None:
        prompt = self.prompter.write(example, passages)
        if prompt is None:
            return None
        said = reference(example, passages[: prompt.shown], self.prompter)
        return Item(example.id, prompt.texts, self.prompter.answer(example, said))


def reference(example: Example, passages: Sequence[Passage], prompter: Prompter) -> str:
    """Return what is to be answered: the first reference, the numbers of its passages, a refusal.

    Where no passage that answers was given, there is no number to name.
    """
    if not example.answerable:
        return prompter.prompt.refusal
    places = [n for n, p in enumerate(passages, start=1) if p.id in example.positive_ids]
    cited = f" [{', '.join(map(str, places))}]" if prompter.cite and places else ""
    return example.answers[0] + cited


def usable(
    examples: Sequence[Example],
    given: Given,
    prompter: Prompter,
    max_answer_tokens: int,
    where: str,
) -> list[Example]:
    """Return the examples that can be learned from; say how many cannot, and what is cut.

    Raises:
        DataError: none can.
    """
    kept, lost, cut = [], Counter[str](), Counter[str]()
    for example in examples:
        if example.answerable and not example.answers:
            lost["have no answer"] += 1
            continue
        if example.answerable and given.ranked is None and not example.positive_ids:
            lost["name no passage that answers (positive_ids)"] += 1
            continue
        passages = given.training(example, 0)
        prompt = prompter.write(example, passages)
        if prompt is None:
            lost[f"have no room for question and instructions ({_room(prompter)})"] += 1
            continue
        said = reference(example, passages[: prompt.shown], prompter)
        if len(prompter.answer(example, said)) > max_answer_tokens:
            lost[f"have an answer of more than max_answer_tokens ({max_answer_tokens})"] += 1
        else:
            kept.append(example)
            cut["passages"] += bool(prompt.cut)
            cut["turns"] += bool(prompt.turns_cut)
    reasons = "; ".join(f"{n} {why}" for why, n in lost.items())
    if not kept:
        raise DataError(f"{where}: nothing to learn from: of {len(examples)} examples {reasons}")
    if reasons:
        logger.warning("%s: of %d examples %s: left out", where, len(examples), reasons)
    if cut["passages"] or cut["turns"]:
        logger.warning(
            "%s: of %d prompts %d lose ends of passages and %d the oldest turns, to fit max_length "
            "%d", where, len(kept), cut["passages"], cut["turns"], prompter.max_length,
        )  # fmt: skip
    return kept


def _room(prompter: Prompter) -> str:
    answer = f" - {prompter.max_answer_tokens} of max_answer_tokens" if prompter.decoder else ""
    change = "raise the one or lower the other" if prompter.decoder else "raise it"
    return f"{prompter.max_length} tokens of max_length{answer}: {change}"
