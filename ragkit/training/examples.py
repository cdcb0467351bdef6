"""What of the examples a retriever is trained on, and what is said of the rest."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ragkit.config.training import Contrastive, TrainLoop
from ragkit.data.schema import Example, Passage, known_positives
from ragkit.errors import DataError
from ragkit.log import logger
from ragkit.models import ranks
from ragkit.training.collate import PairDataset, passage_table
from ragkit.training.distributed import rank, world_size


def training_pairs(
    examples: Sequence[Example],
    corpus: Mapping[str, Passage],
    loss: Contrastive,
    loop: TrainLoop,
    seed: int,
    mines: bool,
) -> PairDataset:
    """Return the training pairs; say what is left out, and what cannot be as it was asked."""
    n_negatives = loss.n_negatives if loss.hard_neg_ratio is None else None
    dataset = PairDataset(_without_false_negatives(examples), n_negatives, seed)
    check_contrast(dataset.examples, loss, loop.batch_size, mines)
    if left_out := len(examples) - len(dataset):
        logger.info(
            "%d of %d examples have no passage that answers them and are left out",
            left_out, len(examples),
        )  # fmt: skip
    copied = sum(_asks_with_its_passage(e, corpus) for e in dataset.examples)
    if copied:
        logger.warning(
            "%d of %d examples ask with the very text of their passage: from these a retriever "
            "learns nothing about questions",
            copied, len(dataset),
        )  # fmt: skip
    batch = loop.batch_size * ranks.count()
    if batch > len(dataset):
        logger.warning(
            "a batch of %d is more than the %d examples: each step sees all of them",
            batch, len(dataset),
        )  # fmt: skip
    return dataset


def _without_false_negatives(examples: Sequence[Example]) -> list[Example]:
    """Leave out negatives that answer the question, whichever example says so; say how many."""
    known = known_positives(examples)
    kept = []
    for example in examples:
        negatives = tuple(i for i in example.negative_ids if i not in known[example.asked])
        changed = len(negatives) < len(example.negative_ids)
        kept.append(replace(example, negative_ids=negatives) if changed else example)
    false = sum(
        len(a.negative_ids) - len(b.negative_ids) for a, b in zip(examples, kept, strict=True)
    )
    if false:
        logger.warning(
            "%d hard negatives answer their question, as the examples themselves say; they are "
            "left out",
            false,
        )
    return kept


def _asks_with_its_passage(example: Example, corpus: Mapping[str, Passage]) -> bool:
    asked = example.question.split()
    return any(corpus[i].text.split() == asked for i in example.positive_ids)


def check_contrast(
    examples: Sequence[Example], loss: Contrastive, batch_size: int, mines: bool = False
) -> None:
    """Refuse data from which the loss can learn nothing; say once how much the teacher left out.

    examples: those with positives
    mines: they get hard negatives before they are drawn

    Raises:
        DataError: no example, one passage only, questions alone in their batches, no scores.
    """
    if not examples:
        raise DataError("no training example has a passage that answers it (positive_ids)")
    table = passage_table(examples)
    if len(table) == 1 and not mines:
        raise DataError(
            f"nothing to contrast: the training examples name one passage only ({table[0]}); "
            "add questions of other passages, or hard negatives (ragkit mine-negatives)"
        )
    drawn = loss.hard_negatives and (mines or any(e.negative_ids for e in examples))
    if batch_size * world_size() == 1 and not drawn:
        raise DataError(
            "nothing to contrast: loop.batch_size is 1 and no hard negatives are drawn; "
            "raise it, or add hard negatives (ragkit mine-negatives)"
        )
    if loss.distillation:
        _check_scores(examples)


def _check_scores(examples: Sequence[Example]) -> None:
    taught = sum(
        any(i in e.scores for i in e.positive_ids) and any(i in e.scores for i in e.negative_ids)
        for e in examples
    )
    if not taught:
        raise DataError(
            "loss.distillation: no training example has a teacher's scores of a positive and a "
            'negative ("scores": {passage id: number})'
        )
    if taught < len(examples) and rank() == 0:
        logger.warning(
            "%d of %d training examples have no teacher's scores of a positive and a negative; "
            "the distillation term leaves them out",
            len(examples) - taught, len(examples),
        )  # fmt: skip
