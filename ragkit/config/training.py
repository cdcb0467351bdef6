"""How a model is trained: the objective, and how long, how fast and in what steps."""

from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from ragkit.config.blocks import Block, Precision


class Contrastive(Block):
    """The contrastive loss over in-batch passages and hard negatives."""

    temperature: float = Field(0.05, gt=0, description="similarities are divided by it")
    n_negatives: int = Field(1, ge=0, description="hard negatives a question, drawn each epoch")
    symmetric: float = Field(0.0, ge=0, lt=1, description="share of the passage-to-query term")
    false_negative_margin: float | None = Field(
        None, description="leave out candidates this much above the positive's similarity"
    )


class Remining(Block):
    """Hard negatives mined again while training, by the encoder as it then is."""

    every: int = Field(1, gt=0, description="epochs between two minings")
    depth: int = Field(50, gt=0, description="candidates a question")
    skip_top: int = Field(0, ge=0, description="first candidates that are left out")
    n: int = Field(16, gt=0, description="negatives a question, to draw from in an epoch")
    max_share: float | None = Field(
        0.95, gt=0, description="drop candidates nearer than this share of the positive's cosine"
    )
    same_answer: bool = Field(
        True, description="drop candidates that contain the reference answer, if it is specific"
    )

    @model_validator(mode="after")
    def _check_depth(self) -> Self:
        if self.depth <= self.skip_top:
            raise ValueError(f"skip_top: {self.skip_top} leaves nothing of depth: {self.depth}")
        return self


class TrainLoop(Block):
    """How long, how fast and in what steps a model is trained."""

    epochs: float = Field(3.0, gt=0, description="passes over the examples")
    batch_size: int = Field(64, gt=0, description="examples a device and step")
    gradient_accumulation: int = Field(1, gt=0, description="steps whose gradients are added up")
    learning_rate: float = Field(2e-5, gt=0, description="highest learning rate")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps with rising rate")
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = Field(
        "linear", description="how the learning rate falls"
    )
    weight_decay: float = Field(0.01, ge=0, description="of AdamW")
    dropout: float | None = Field(
        0.0, ge=0, lt=1, description="while training; unset: the model's own (slower on a CPU)"
    )
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm")
    evaluate_every: Literal["epoch"] | PositiveInt = Field(
        "epoch", description="epoch, or a number of steps"
    )
    patience: int | None = Field(
        None, gt=0, description="evaluations without progress before a stop"
    )
    precision: Precision = Field(
        "auto", description="auto: bf16 where the machine multiplies in it"
    )
    device: Literal["auto", "cpu"] = Field(
        "auto", description="auto: an accelerator if there is one"
    )
    report_to: list[str] = Field([], description="tensorboard, wandb, trackio, ...")


class Lora(Block):
    """Low-rank adapters in place of all weights (LoRA)."""

    r: int = Field(16, gt=0, description="rank of the adapters")
    alpha: int = Field(32, gt=0, description="what they add is multiplied by alpha / r")
    dropout: float = Field(0.0, ge=0, lt=1, description="on their input, while training")
    target_modules: Literal["all-linear"] | list[str] = Field(
        "all-linear", description="layers that get one; all-linear leaves heads out"
    )
    quantize: Literal["4bit"] | None = Field(
        None, description="hold the frozen base in 4 bits (QLoRA); needs a CUDA GPU"
    )
