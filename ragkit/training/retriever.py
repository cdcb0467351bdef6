"""Training an encoder by contrastive learning, on `transformers.Trainer`.

The best checkpoint is chosen by a retrieval metric over dev questions and a corpus, computed by the
caller. Where examples, negatives and results come from and go to is the stage's business.
"""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import load_model
from transformers import EarlyStoppingCallback, PrinterCallback
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from ragkit.config.training import Contrastive, TrainLoop
from ragkit.data.files import sha256_text
from ragkit.data.schema import Example, Passage, known_positives
from ragkit.errors import ConfigError
from ragkit.log import logger
from ragkit.models import ranks
from ragkit.models.encoder import Encoder
from ragkit.retrieval.encode import log_cut
from ragkit.retrieval.searchers import query_text
from ragkit.training.arguments import plain_settings, shards_weights, training_arguments
from ragkit.training.callbacks import Progress, Watched, reporters
from ragkit.training.checkpoints import Stamp, find_checkpoint, is_finished, read_state
from ragkit.training.collate import (
    PairCollator,
    TokenIds,
    passage_table,
)
from ragkit.training.contrastive import ContrastiveModel
from ragkit.training.dropout import set_dropout
from ragkit.training.examples import training_pairs
from ragkit.training.finite import LossWatch
from ragkit.training.guide import guide_vectors
from ragkit.training.measuring import MeasuringTrainer, Trained, read_summary
from ragkit.training.remining import Remine, RemineNegatives

Evaluate = Callable[[Encoder], Mapping[str, float]]


class RetrieverTrainer(MeasuringTrainer):
    """A Trainer whose evaluation is a retrieval metric, measured in rank 0 for all.

    plain: the model with whole weights, for rank 0 to measure and to keep; the one that is trained,
        or a copy of it where DeepSpeed or FSDP take that apart
    """

    loss_is_scaled_for_ga = False  # it is a mean over the micro-batch: the Trainer divides
    score: Evaluate
    plain: ContrastiveModel

    def measured(self) -> dict[str, float]:
        """Compute the dev metrics."""
        self.gather_weights()
        scores = ranks.decided(lambda: dict(self.score(self.plain.encoder)))
        if self.plain is self.model:
            self.plain.train(self.is_in_train)
        else:
            self.plain.to("cpu")
        return scores

    def gather_weights(self) -> None:
        """Bring `plain` up to date in rank 0; all processes call this together."""
        if self.plain is not self.model:
            weights = self.accelerator.get_state_dict(self.model_wrapped)
            if self.is_world_process_zero():
                self.plain.load_state_dict(weights)


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

    An interrupted call goes on from its last whole checkpoint, to the same weights. Of several
    processes (torchrun) rank 0 ends with the trained encoder.

    remine: gives the examples new negatives, every so many epochs, by the encoder as it then is
    score: dev metrics of an encoder, `metric` among them; None: no selection, the last step is kept
    Raises:
        ConfigError: settings that do not go together, or not with this machine.
        DataError: no example has a positive, or a loss has nothing to go by.
        ModelError: the loss is not a number; bad-batch.json in `folder` says which batch.
        RunError: the checkpoints in `folder` are of a different training.
    """
    if loss.cached and shards_weights(loop):
        raise ConfigError(
            "loss.cached: needs the whole weights in each process, and loop.fsdp and DeepSpeed's "
            "stage 3 take them apart; use configs/deepspeed/zero2.json, or a smaller batch"
        )
    dataset = training_pairs(examples, corpus, loss, loop, seed, mines=remine is not None)
    made_from = _made_from(encoder, dataset.examples, loss, loop, seed)
    checkpoint = find_checkpoint(folder / "checkpoints", made_from)
    if loop.dropout is not None:
        set_dropout(encoder, loop.dropout)
    arguments = training_arguments(
        folder / "checkpoints", loop, len(dataset), seed,
        metric=metric if score else None,
        resumed=checkpoint is not None,
        layers=getattr(encoder.model, "_no_split_modules", None),
    )  # fmt: skip
    plain = ContrastiveModel(encoder, loss, LossWatch(folder))
    if checkpoint and is_finished(state := read_state(checkpoint), loop.patience):
        best = Path(state.best_model_checkpoint or checkpoint)
        load_model(plain, best / "model.safetensors")
        return read_summary(state, 0.0, metric)
    passages: dict[str, TokenIds] = {}  # grows where negatives are mined again
    learn = partial(_tokenize_passages, encoder, corpus, passages)
    learn(dataset.examples)
    guide = (
        guide_vectors(loss.guide, dataset.examples, corpus, folder, loop.device)
        if loss.guide
        else None
    )
    model = copy.deepcopy(plain) if loop.deepspeed or loop.fsdp else plain
    trainer = RetrieverTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        eval_dataset=dataset if score else None,  # the Trainer asks for one; `evaluate` is ours
        data_collator=replace(
            _collator(encoder, dataset.examples, passages),
            loss=loss, batch_size=loop.batch_size, guide=guide,
        ),
        callbacks=[
            Progress(folder, len(dataset), dataset.begin_epoch),
            Watched(model.watch),
            Stamp(made_from),
            *reporters(loop.report_to, folder),
        ],
    )  # fmt: skip
    if arguments.world_size > 1:
        logger.info(
            "training in %d processes (%s)",
            arguments.world_size, trainer.accelerator.distributed_type.value,
        )  # fmt: skip
    trainer.plain = plain
    if score is not None:
        trainer.score = score
        if loop.patience:
            trainer.add_callback(EarlyStoppingCallback(loop.patience))
    if remine is not None:
        again = RemineNegatives(
            folder, dataset, encoder, remine, remine_every, learn, trainer.gather_weights
        )
        trainer.add_callback(again)
    trainer.remove_callback(PrinterCallback)  # it prints dictionaries to stdout
    try:
        result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        # else what is loaded next is taken apart too, at stage 3
        unset_hf_deepspeed_config()  # type: ignore[no-untyped-call]
    trainer.gather_weights()
    return read_summary(trainer.state, result.metrics["train_runtime"], metric)


def _made_from(
    encoder: Encoder, examples: Sequence[Example], loss: Contrastive, loop: TrainLoop, seed: int
) -> dict[str, Any]:
    """Return what decides the weights that come out, for the stamp of the checkpoints."""
    data = [[e.id, query_text(e), e.positive_ids, e.negative_ids, e.scores] for e in examples]
    return {
        "model": encoder.fingerprint(),
        "examples": sha256_text(json.dumps(data)),
        "seed": seed,
        "processes": ranks.count(),
        "loss": loss.model_dump(mode="json"),
        "loop": dict(plain_settings(loop)),
    }


def _collator(
    encoder: Encoder, examples: Sequence[Example], passages: Mapping[str, TokenIds]
) -> PairCollator:
    """Tokenise every question, once."""
    queries = encoder.tokenize([query_text(e) for e in examples], "query")
    log_cut(encoder.tower("query"), queries, "training questions")
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
    log_cut(encoder.tower("passage"), token_ids, "training passages")
    passages.update(zip(needed, token_ids, strict=True))
