"""How a generator is trained: what it is given, in what lengths, and in what steps."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from ragkit.config.blocks import Block, Dense, InputPath, Retriever
from ragkit.config.training import TrainLoop

Method = Literal["reader", "sft", "swr", "fid"]


_RETRIEVED = ("k", "retriever", "cache")  # keys that gold: only would not look at


class Passages(Block):
    """Which passages a training question is given."""

    k: int = Field(3, gt=0, description="passages that the retriever finds")
    gold: Literal["only", "as_retrieved", "forced", "raft"] | None = Field(
        None,
        description="only: the right passages, and nothing is retrieved; as_retrieved: where the "
        "retriever finds them; forced: in place of the last where it does not; raft: there with "
        "probability p_gold, else distractors alone; unset: only (reader, sft), forced (swr, fid)",
    )
    p_gold: float = Field(0.8, ge=0, le=1, description="of raft")
    distractors: int = Field(
        0, ge=0, description="only: passages beside the right ones: hard negatives, else by lot"
    )
    shuffle: bool = Field(True, description="put the passages in another order each epoch")
    retriever: Retriever = Field(Dense(type="dense"), description="the frozen retriever")
    cache: Path | None = Field(
        None, description="where rankings are kept, to be shared by runs; unset: the run directory"
    )

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.p_gold != _default(self, "p_gold") and self.gold != "raft":
            raise ValueError("p_gold: goes with gold: raft")
        changed = [key for key in _RETRIEVED if getattr(self, key) != _default(self, key)]
        if self.gold == "only" and changed:
            raise ValueError(f"{changed[0]}: nothing is retrieved with gold: only")
        if self.gold not in ("only", None) and self.distractors:
            raise ValueError(f"distractors: goes with gold: only, and this is {self.gold}")
        return self


def _default(block: Block, key: str) -> Any:
    return type(block).model_fields[key].default


class Part(Block):
    """A file of a mixture, and its share of an epoch."""

    path: InputPath = Field(description="examples or chats")
    weight: float = Field(1.0, gt=0, description="share among the weights of all parts")


class Pretraining(Block):
    """Learning to continue raw documents, before anything is asked."""

    input: InputPath | None = Field(
        None, description="passages or documents; unset: the corpus, whole documents at a time"
    )
    epochs: float = Field(1.0, gt=0, description="passes over the documents")
    learning_rate: float = Field(5e-5, gt=0, description="highest learning rate")
    max_length: int = Field(1024, gt=8, description="tokens of a sequence")


class GeneratorLoop(TrainLoop):
    """How long, how fast and in what steps a generator is trained."""

    epochs: float = Field(2.0, gt=0, description="passes over the examples")
    batch_size: int | None = Field(  # type: ignore[assignment]
        None, gt=0, description="examples a device and step; unset: 8, of a reader 16"
    )
    learning_rate: float | None = Field(  # type: ignore[assignment]
        None, gt=0, description="highest; unset: 1e-5, with LoRA 1e-4, of a reader 2e-4"
    )
    optimizer: Literal["adamw", "adamw_8bit"] = Field(
        "adamw", description="adamw_8bit: its state in 8 bits; needs a CUDA GPU and bitsandbytes"
    )
    gradient_checkpointing: bool = Field(
        False, description="compute activations twice instead of keeping them"
    )
    neftune_alpha: float | None = Field(
        None, gt=0, description="noise on the embeddings of what is read (NEFTune), e.g. 5"
    )
    halve_batch: bool = Field(
        False,
        description="where memory runs out, go on from the last checkpoint with half the batch and "
        "twice the accumulation",
    )

    @property
    def batch(self) -> int:
        """`batch_size`, given or filled in."""
        assert self.batch_size is not None
        return self.batch_size


class Watching(Block):
    """How dev examples choose the best checkpoint."""

    metric: Literal["f1", "rouge_l", "em", "loss"] = Field(
        "f1", description="of generated answers, or the loss of the references"
    )
    questions: int = Field(200, gt=0, description="dev questions, at most, drawn once")
    samples: int = Field(3, ge=0, description="answers that are shown at each evaluation")


def as_parts(value: Any) -> Any:
    """Take `path: weight` for a list of parts."""
    if isinstance(value, Mapping):
        return [{"path": path, "weight": weight} for path, weight in value.items()]
    return value
