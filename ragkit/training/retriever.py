"""Training an encoder by contrastive learning, on `transformers.Trainer`.

The best checkpoint is chosen by a retrieval metric over dev questions and a corpus, computed by the
caller. Where examples, negatives and results come from and go to is the stage's business.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import load_model
from torch import nn
from transformers import (
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from ragkit.config.training import Contrastive, TrainLoop
from ragkit.data.files import write_json, write_jsonl
from ragkit.data.schema import Example, Passage, known_positives
from ragkit.log import Meter, logger
from ragkit.models.devices import pick_device, use_bf16
from ragkit.models.encoder import Encoder
from ragkit.retrieval.encode import count_cut
from ragkit.retrieval.searchers import query_text
from ragkit.training.collate import (
    PairCollator,
    PairDataset,
    TokenIds,
    check_contrast,
    passage_table,
)
from ragkit.training.contrastive import ContrastiveModel
from ragkit.training.finite import LossWatch
from ragkit.training.guide import guide_vectors
from ragkit.training.remining import Remine, RemineNegatives

Evaluate = Callable[[Encoder], Mapping[str, float]]


@dataclass(frozen=True)
class Trained:
    """What a training run came to.

    best_step: the optimiser step of the checkpoint that was kept; None: there was no dev set
    dev_before, dev_best: the dev metric of the encoder before training and of the one kept
    """

    steps: int
    seconds: float
    best_step: int | None
    dev_before: float | None
    dev_best: float | None


class RetrieverTrainer(Trainer):
    """A Trainer whose evaluation is a retrieval metric."""

    score: Evaluate

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Compute the dev metrics, log them and tell the callbacks."""
        encoder = self.accelerator.unwrap_model(self.model).encoder
        metrics = {f"eval_{name}": value for name, value in self.score(encoder).items()}
        encoder.train(self.is_in_train)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics


def train_retriever(
    encoder: Encoder,
    examples: Sequence[Example],
    corpus: Mapping[str, Passage],
    folder: Path,
    *,
    loss: Contrastive,
    loop: TrainLoop,
    score: Evaluate | None = None,
    metric: str = "ndcg@10",
    seed: int = 0,
    remine: Remine | None = None,
    remine_every: int = 1,
) -> Trained:
    """Train `encoder` in place; checkpoints and history.jsonl go to `folder`.

    An interrupted call goes on from its last whole checkpoint.

    remine: gives the examples new negatives, every so many epochs, by the encoder as it then is
    score: dev metrics of an encoder, `metric` among them; None: no selection, the last step is kept
    Raises:
        DataError: no example has a positive, or a loss has nothing to go by.
        ModelError: the loss is not a number; bad-batch.json in `folder` says which batch.
    """
    n_negatives = loss.n_negatives if loss.hard_neg_ratio is None else None
    dataset = PairDataset(examples, n_negatives, seed)
    check_contrast(dataset.examples, loss, loop.batch_size)
    if loop.dropout is not None:
        _set_dropout(encoder, loop.dropout)
    checkpoint = last_checkpoint(folder / "checkpoints")
    arguments = _arguments(folder / "checkpoints", loop, len(dataset), seed)
    if score is not None:
        arguments |= _selection(metric, arguments["save_strategy"], checkpoint is not None)
    watch = LossWatch(folder)
    model = ContrastiveModel(encoder, loss, watch)
    passages: dict[str, TokenIds] = {}  # grows where negatives are mined again
    learn = partial(_tokenize_passages, encoder, corpus, passages)
    learn(dataset.examples)
    trainer_arguments = TrainingArguments(**arguments)
    with trainer_arguments.main_process_first(local=False, desc="encoding with the guide"):
        guide = guide_vectors(loss.guide, dataset.examples, corpus, folder) if loss.guide else None
    trainer = RetrieverTrainer(
        model=model,
        args=trainer_arguments,
        train_dataset=dataset,
        eval_dataset=dataset if score else None,  # the Trainer asks for one; `evaluate` is ours
        data_collator=replace(
            _collator(encoder, dataset.examples, passages),
            loss=loss, batch_size=loop.batch_size, guide=guide,
        ),
        callbacks=[
            _Progress(folder, loop.batch_size * loop.gradient_accumulation, dataset),
            _Watched(watch),
        ],
    )  # fmt: skip
    if score is not None:
        trainer.score = score
        if loop.patience:
            trainer.add_callback(EarlyStoppingCallback(loop.patience))
    if remine is not None:
        again = RemineNegatives(folder, dataset, encoder, remine, remine_every, learn)
        trainer.add_callback(again)
    trainer.remove_callback(_printer())
    if checkpoint:
        logger.info("going on from %s", checkpoint)
        _relocate(checkpoint)
    if checkpoint and loop.patience and _stopped_early(checkpoint, loop.patience):
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        load_model(model, Path(state.best_model_checkpoint or checkpoint) / "model.safetensors")
        return _summary(state, 0.0, metric)
    result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return _summary(trainer.state, result.metrics["train_runtime"], metric)


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint that was written whole, or None.

    trainer_state.json is the last file of a checkpoint to be written.
    """
    whole = []
    for candidate in folder.glob("checkpoint-*"):
        try:
            state = json.loads((candidate / "trainer_state.json").read_text())
        except (OSError, json.JSONDecodeError):
            continue
        whole.append((int(state["global_step"]), candidate))
    return max(whole)[1] if whole else None


def _relocate(checkpoint: Path) -> None:
    """Make a checkpoint name its best sibling where that is now; the run may have been moved."""
    file = checkpoint / "trainer_state.json"
    state = json.loads(file.read_text())
    if state.get("best_model_checkpoint"):
        best = checkpoint.parent / Path(state["best_model_checkpoint"]).name
        write_json(file, {**state, "best_model_checkpoint": str(best)})


def _stopped_early(checkpoint: Path, patience: int) -> bool:
    """Return whether training had ended at this checkpoint for want of progress."""
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    stopper = state["stateful_callbacks"].get("EarlyStoppingCallback", {})
    waited: int = stopper.get("attributes", {}).get("early_stopping_patience_counter", 0)
    return waited >= patience


def _set_dropout(encoder: nn.Module, probability: float) -> None:
    for name, module in encoder.named_modules():
        if isinstance(module, nn.Dropout) and "lora_dropout" not in name:
            module.p = probability


def _collator(
    encoder: Encoder, examples: Sequence[Example], passages: Mapping[str, TokenIds]
) -> PairCollator:
    """Tokenise every question, once."""
    queries = encoder.tokenize([query_text(e) for e in examples], "query")
    return PairCollator(
        queries=dict(zip((e.id for e in examples), queries, strict=True)),
        passages=passages,
        known=known_positives(examples),
    )


def _tokenize_passages(
    encoder: Encoder,
    corpus: Mapping[str, Passage],
    passages: dict[str, TokenIds],
    examples: Sequence[Example],
) -> None:
    """Add the tokens of the passages that examples name and that are not in `passages` yet."""
    needed = [i for i in passage_table(examples) if i not in passages]
    token_ids = encoder.tokenize([corpus[i].rendered for i in needed], "passage")
    tower = encoder.tower("passage")
    if cut := count_cut(tower, token_ids):
        logger.info(
            "%d of %d training passages fill the encoder's %d tokens; the rest of them is not seen",
            cut, len(token_ids), tower.settings.max_length,
        )  # fmt: skip
    passages.update(zip(needed, token_ids, strict=True))


def _arguments(folder: Path, loop: TrainLoop, n_examples: int, seed: int) -> dict[str, Any]:
    per_epoch = -(-n_examples // (loop.batch_size * loop.gradient_accumulation))
    total = max(round(per_epoch * loop.epochs), 1)
    device = pick_device(loop.device)
    arguments: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": loop.batch_size,
        "gradient_accumulation_steps": loop.gradient_accumulation,
        "num_train_epochs": loop.epochs,
        "learning_rate": loop.learning_rate,
        "warmup_steps": loop.warmup,
        "lr_scheduler_type": loop.schedule,
        "weight_decay": loop.weight_decay,
        "max_grad_norm": loop.max_grad_norm,
        "bf16": use_bf16(loop.precision, device),
        "use_cpu": device.type == "cpu",
        "logging_steps": max(total // 20, 1),
        "logging_nan_inf_filter": False,
        "save_strategy": "epoch",
        "save_total_limit": 2,
        "seed": seed,
        "report_to": loop.report_to or "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
    }
    if loop.evaluate_every != "epoch":
        every = loop.evaluate_every
        arguments |= {"save_strategy": "steps", "save_steps": every, "eval_steps": every}
    return arguments


def _selection(metric: str, strategy: str, resumed: bool) -> dict[str, Any]:
    """Return the arguments that keep the best checkpoint."""
    return {
        "eval_strategy": strategy,
        "eval_on_start": not resumed,
        "load_best_model_at_end": True,
        "metric_for_best_model": f"eval_{metric}",
        "greater_is_better": True,
        "restore_callback_states_from_checkpoint": True,
    }


class _Watched(TrainerCallback):  # type: ignore[misc]
    """Checks the losses before anything is logged, measured or saved."""

    def __init__(self, watch: LossWatch) -> None:
        self.watch = watch

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if (
            control.should_log
            or control.should_evaluate
            or control.should_save
            or control.should_training_stop
        ):
            self.watch.check()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.watch.check()


class _Progress(TrainerCallback):  # type: ignore[misc]
    """Shows pairs/s and the time left, keeps history.jsonl up to date, tells the data the epoch."""

    def __init__(self, folder: Path, pairs_per_step: int, dataset: PairDataset) -> None:
        self.folder, self.pairs_per_step, self.dataset = folder, pairs_per_step, dataset
        self.meter: Meter | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.meter = Meter("training", state.max_steps * self.pairs_per_step, "pairs")
        self.meter.skip(state.global_step * self.pairs_per_step)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.dataset.begin_epoch(int((state.epoch or 0.0) + 1e-6))

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        assert self.meter is not None
        self.meter.advance(self.pairs_per_step)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.is_world_process_zero:
            write_jsonl(self.folder / "history.jsonl", map(_finite, state.log_history))
            entry = state.log_history[-1]
            dev = ", ".join(f"{k[5:]} {v:.4f}" for k, v in entry.items() if k.startswith("eval_"))
            if dev:
                logger.info("epoch %.1f: dev %s", entry.get("epoch", 0.0), dev)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self.meter is not None:
            self.meter.close()


def _finite(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return a log entry with None for what JSON cannot hold: a gradient norm may be infinite."""
    return {
        k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in entry.items()
    }


def _printer() -> type[TrainerCallback]:
    """The Trainer's own callback that prints dictionaries to stdout."""
    from transformers.trainer_callback import PrinterCallback

    return PrinterCallback


def _summary(state: TrainerState, seconds: float, metric: str) -> Trained:
    scores = [(e["step"], e[f"eval_{metric}"]) for e in state.log_history if f"eval_{metric}" in e]
    before = next((value for step, value in scores if step == 0), None)
    return Trained(
        steps=state.global_step,
        seconds=round(seconds, 1),
        best_step=state.best_global_step if scores else None,
        dev_before=before,
        dev_best=state.best_metric if scores else None,
    )


def write_summary(path: Path, trained: Trained, metric: str) -> None:
    """Write a training run's metrics.json."""
    values = {f"dev_{metric}": trained.dev_best, f"dev_{metric}_before": trained.dev_before}
    write_json(
        path,
        {
            "metrics": {k: {"mean": v, "ci95": None, "n": None} for k, v in values.items()},
            "timings": {"training_s": trained.seconds},
            "steps": trained.steps,
            "best_step": trained.best_step,
        },
    )
