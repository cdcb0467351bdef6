"""Training a generator or a reader on `transformers.Trainer`, whatever it learns from.

An `Objective` says what a batch is and what its loss; the model is the plain one of transformers,
so that checkpoints, adapters, DeepSpeed and FSDP are as the Trainer has them. Which examples,
passages and prompts there are, and what is measured on dev, is the caller's business.
"""

import gc
import importlib.util
import logging
import shutil
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from peft import PeftModel
from torch import Tensor
from torch.utils.data import Dataset
from transformers import EarlyStoppingCallback, PreTrainedModel, PrinterCallback
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from ragkit.config.generating import GeneratorLoop
from ragkit.errors import ConfigError, MissingExtraError, ModelError
from ragkit.log import logger
from ragkit.models import ranks
from ragkit.models.devices import pick_device
from ragkit.training.arguments import plain_settings, training_arguments
from ragkit.training.callbacks import Progress, Watched, reporters
from ragkit.training.checkpoints import Stamp, find_checkpoint, is_finished, read_state
from ragkit.training.dropout import set_dropout
from ragkit.training.finite import LossWatch
from ragkit.training.measuring import MeasuringTrainer, Trained, read_summary

Model = PreTrainedModel | PeftModel
_MESSAGES = logging.getLogger("transformers.trainer")
BEST = ".best"  # the folder in which the weights that were kept are left to the caller


class Objective(Protocol):
    """What a model learns from items of a data set."""

    def collate(self, items: list[Any]) -> dict[str, Any]:
        """Return a batch.

        The model's input as tensors; `labels`, -100 where there is no target, whose number weighs
        the batch; and `example_ids`, a list of strings.
        """

    def loss(self, model: Any, batch: Mapping[str, Any]) -> Tensor:
        """Return the sum of the loss over the targets of a batch, a scalar in fp32."""


# dev metrics of a model that learns this, after so many steps
Score = Callable[[Model, Objective, int], Mapping[str, float]]


class Learned(Dataset[Any]):
    """A data set that may look otherwise in each epoch."""

    def __len__(self) -> int:
        """Return how many items an epoch has."""
        raise NotImplementedError

    def begin_epoch(self, epoch: int) -> None:
        """Be told the number of each epoch that begins, from 0."""


class GeneratorTrainer(MeasuringTrainer):
    """A Trainer whose loss is a sum over targets, divided by all those of an optimiser step.

    So that a step is the same however its examples are spread over micro-batches and processes.
    """

    objective: Objective
    score: Score | None
    watch: LossWatch

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.model_accepts_loss_kwargs = True  # targets are counted before a step
        self._loss_shifts_labels = False

    def compute_loss(  # type: ignore[override]
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,  # noqa: ARG002  (the Trainer's own signature)
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Return the loss of a micro-batch, as its share of the step's mean."""
        loss = self.objective.loss(model, inputs)
        count: Tensor = (inputs["labels"] != -100).sum().clamp(min=1)
        self.watch.see(loss / count, example_ids=inputs["example_ids"])
        # gradients are averaged over processes
        share: Tensor | float = self.accelerator.num_processes / (num_items_in_batch or count)
        return torch.mul(loss, share)

    def measured(self) -> dict[str, float]:
        """Compute the dev metrics, in the precision that is trained in."""
        assert self.score is not None
        device, model = self.args.device.type, self.model
        mixed = torch.autocast(device, torch.bfloat16) if self.args.bf16 else nullcontext()
        assert isinstance(model, PreTrainedModel | PeftModel)
        model.eval()
        with torch.no_grad(), mixed:
            scores = dict(self.score(model, self.objective, self.state.global_step))
        model.train(self.is_in_train)
        return scores


def fit(
    load: Callable[[], tuple[Model, Objective]],
    dataset: Learned,
    folder: Path,
    *,
    loop: GeneratorLoop,
    made_from: Mapping[str, Any],
    score: Score | None = None,
    metric: str = "f1",
    seed: int = 0,
) -> Trained:
    """Train a model; its best weights are left in `folder`/BEST, as `save_pretrained` does.

    Checkpoints and history.jsonl go to `folder`, too; an interrupted call goes on from its last
    whole checkpoint, to the same weights.

    load: returns the model to begin with and what it learns, each time anew
    made_from: what decides the weights beside the loop, for the stamp of the checkpoints
    score: dev metrics, `metric` among them, called in every process; None: the last step is kept
    Raises:
        ConfigError: settings that do not go together, or not with this machine.
        ModelError: the loss is not a number, or memory runs out.
        RunError: the checkpoints in `folder` are of a different training.
    """
    assert loop.learning_rate and loop.batch_size, "the stage fills them in"
    made_from = {
        **made_from, "seed": seed, "processes": ranks.count(), "loop": dict(plain_settings(loop)),
    }  # fmt: skip
    while True:
        try:
            return _fit(*load(), dataset, folder, loop, made_from, score, metric, seed)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            smaller = _halved(loop)
            if smaller is None:
                raise ModelError(_advice(loop)) from error
        logger.warning(
            "no memory for %d examples at a time; going on with %d, and %d accumulated",
            loop.batch, smaller.batch, smaller.gradient_accumulation,
        )  # fmt: skip
        loop = smaller
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _fit(
    model: Model,
    objective: Objective,
    dataset: Learned,
    folder: Path,
    loop: GeneratorLoop,
    made_from: Mapping[str, Any],
    score: Score | None,
    metric: str,
    seed: int,
) -> Trained:
    checkpoint = find_checkpoint(folder / "checkpoints", made_from)
    if loop.dropout is not None:
        set_dropout(model, loop.dropout)
    if loop.gradient_checkpointing:
        _compute_twice(model)
    more = _further_arguments(loop)
    if checkpoint and is_finished(state := read_state(checkpoint), loop.patience):
        more["max_steps"] = state.global_step  # it had stopped before all its epochs
    arguments = training_arguments(
        folder / "checkpoints", loop, len(dataset), seed,
        metric=metric if score else None, greater_is_better=metric != "loss",
        resumed=checkpoint is not None, layers=getattr(model, "_no_split_modules", None),
        more=more,
    )  # fmt: skip
    watch = LossWatch(folder)
    trainer = GeneratorTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        eval_dataset=dataset if score else None,  # the Trainer asks for one; `evaluate` is ours
        data_collator=objective.collate,
        callbacks=[
            Progress(folder, len(dataset), dataset.begin_epoch, "examples"),
            Watched(watch),
            Stamp(made_from),
            *reporters(loop.report_to, folder),
        ],
    )
    trainer.objective, trainer.score, trainer.watch = objective, score, watch
    if score is not None and loop.patience:
        trainer.add_callback(EarlyStoppingCallback(loop.patience))
    trainer.remove_callback(PrinterCallback)  # it prints dictionaries to stdout
    _MESSAGES.addFilter(_is_news)
    try:
        result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        # once, before any process writes there
        ranks.decided(lambda: shutil.rmtree(folder / BEST, ignore_errors=True))
        trainer.save_model(str(folder / BEST))
        ranks.wait()  # who returns first may load what rank 0 still writes
    finally:
        _MESSAGES.removeFilter(_is_news)
        # else what is loaded next is taken apart too, at stage 3
        unset_hf_deepspeed_config()  # type: ignore[no-untyped-call]
    return read_summary(trainer.state, result.metrics["train_runtime"], metric)


def _further_arguments(loop: GeneratorLoop) -> dict[str, Any]:
    more: dict[str, Any] = {}
    if loop.optimizer == "adamw_8bit":
        if pick_device(loop.device).type != "cuda":
            raise ConfigError("loop.optimizer: adamw_8bit needs a CUDA GPU; leave it unset")
        if importlib.util.find_spec("bitsandbytes") is None:
            raise MissingExtraError("bitsandbytes", "quantize", "loop.optimizer: adamw_8bit")
        more["optim"] = "adamw_bnb_8bit"
    return more


def _is_news(record: logging.LogRecord) -> bool:
    """Leave out that weights which are tied stand in a checkpoint once."""
    return "There were missing keys" not in record.getMessage()


def _compute_twice(model: Model) -> None:
    """Have activations computed again in the backward pass."""
    # its name from transformers 5.23 on, and the one before
    name = "activation_checkpointing_enable"
    enable = getattr(model, name, None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def _is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out, on a device or, as far as that raises, on the host."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _halved(loop: GeneratorLoop) -> GeneratorLoop | None:
    """Return the same steps of the optimiser in half the memory; None where that cannot be.

    Of several processes only one may have run out, and the others would wait for it.
    """
    if not loop.halve_batch or loop.batch % 2 or ranks.count() > 1:
        return None
    return loop.model_copy(
        update={
            "batch_size": loop.batch // 2,
            "gradient_accumulation": loop.gradient_accumulation * 2,
        }
    )


def _advice(loop: GeneratorLoop) -> str:
    lower = ["loop.batch_size (raise loop.gradient_accumulation by as much: the same steps)"]
    lower += [] if loop.batch > 1 else ["max_length", "passages.k"]
    others = ["loop.gradient_checkpointing: true", "lora"]
    others += [] if loop.halve_batch else ["loop.halve_batch: true, which tries by itself"]
    return (
        f"out of memory with {loop.batch} examples at a time; lower {', '.join(lower)}; "
        f"or set {', '.join(others)}"
    )
