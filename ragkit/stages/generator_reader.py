"""How train-generator trains a span reader."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragkit.config.answering import ReaderAnswerer
from ragkit.data.schema import Example
from ragkit.errors import DataError
from ragkit.models import ranks
from ragkit.models.adapters import merged, with_adapters
from ragkit.models.devices import pick_device
from ragkit.models.loading import positions
from ragkit.models.pretrained import fingerprint
from ragkit.models.reader import SpanReader
from ragkit.rag.reading import Reading, pairs, read
from ragkit.runs import Run
from ragkit.stages.generator_data import Asked, read_parts
from ragkit.stages.generator_training import card_of, keep_model, made_from, train, watched
from ragkit.training.fitting import BEST, Model, Objective
from ragkit.training.given import Given
from ragkit.training.measuring import Trained
from ragkit.training.mixture import Source
from ragkit.training.reading import SpanItem, SpanObjective, choose_margin, log_targets

if TYPE_CHECKING:
    from ragkit.stages.train_generator import Config

_USUAL_LENGTH = 384
_HEAD = "qa_outputs"  # trained whole where the rest has adapters


@dataclass
class ReaderTask:
    """A span reader in training, and how it is asked meanwhile.

    reader: the one that is trained, in the last `load`
    """

    config: "Config"

    def __post_init__(self) -> None:
        self.reader = self._fresh()

    def _fresh(self) -> SpanReader:
        config = self.config
        reader = SpanReader.load(
            config.model,
            config.max_length,
            head_seed=config.seed,
            trust_remote_code=config.trust_remote_code,
        )
        if config.max_length is None:
            plain: Any = reader.model.base_model
            reader.max_length = min(_USUAL_LENGTH, positions(plain))
        return reader

    def load(self) -> tuple[Model, Objective]:
        """Return the model to begin with, and what it learns."""
        self.reader = self._fresh()
        lora = self.config.lora
        model = with_adapters(self.reader.model, lora, [_HEAD]) if lora else self.reader.model
        return model, SpanObjective(self.reader)

    def trained(self, best: Path) -> SpanReader:
        """Return the reader with the weights that training left."""
        reader = self._fresh()
        model: Any = (
            merged(reader.model, best)
            if self.config.lora
            else type(reader.model).from_pretrained(best)
        )
        return SpanReader(model.eval(), reader.tokenizer, reader.max_length)

    def readings(self, examples: Sequence[Example], given: Given) -> list[Reading | None]:
        """Return the best span for each dev question by the reader as it is."""
        passages = [given.evaluation(e) for e in examples]
        options = ReaderAnswerer(
            type="reader",
            model=self.config.model,
            max_answer_tokens=self.config.longest_answer,
            precision=self.config.loop.precision,
        )
        return read(self.reader, pairs(self.reader, examples, passages), passages, options)

    def answer(self, _: Model, examples: Sequence[Example], given: Given) -> list[tuple[str, bool]]:
        """Return what the reader says to dev questions; it declines where that is best on them."""
        found = self.readings(examples, given)
        # of all processes: each has a share of the questions, and all have to decline alike
        everybody = ranks.collected(list(zip(examples, found, strict=True)))
        margin = choose_margin(*map(list, zip(*everybody, strict=True)))
        return [
            ("", True) if r is None else (r.text, margin is not None and r.margin < margin)
            for r in found
        ]


def train_reader(config: "Config", run: Run) -> Trained:
    """Train a span reader; leave it in model/."""
    task = ReaderTask(config)  # what is wrong with the model is told before anything is searched
    parts = read_parts(config, run)
    (part,), dev = parts.asked, parts.dev
    objective = SpanObjective(task.reader)
    examples = _learnable(part, objective)

    def item(number: int, epoch: int) -> SpanItem:
        return objective.item(examples[number], part.given.training(examples[number], epoch))

    items = [objective.item(e, dev.given.evaluation(e)) for e in dev.examples] if dev else []
    learnable = [item for item in items if item.is_learnable]
    trained = train(
        config,
        run,
        task.load,
        [Source(len(examples), item)],
        made_from(config, fingerprint(task.reader.model), [part]),
        watched(config, run, dev, task.answer, learnable),
    )
    if run.main:
        _keep(config, run, task, dev)
    return trained


def _learnable(part: Asked, objective: SpanObjective) -> list[Example]:
    """Return the examples that say where an answer is, or that there is none; say how many do not.

    Raises:
        DataError: none does.
    """
    items = [objective.item(e, part.given.training(e, 0)) for e in part.examples]
    log_targets(items)
    kept = [e for e, item in zip(part.examples, items, strict=True) if item.is_learnable]
    if not kept:
        raise DataError(
            "nothing to read: no reference answer stands in its passages, or nearly; answers in "
            "words of their own are learned by method: sft, swr or fid"
        )
    return kept


def _keep(config: "Config", run: Run, task: ReaderTask, dev: Asked | None) -> None:
    """Make model/ of the weights that training left; with adapters adapter/, too."""
    task.reader = reader = task.trained(run / BEST)
    margin = None
    if dev is not None:
        reader.model.to(pick_device(config.loop.device))  # type: ignore[arg-type]
        margin = choose_margin(dev.examples, task.readings(dev.examples, dev.given))
    card = card_of(config, reader.max_length, no_answer_margin=margin)
    keep_model(run, reader.save, card, config.lora is not None)
