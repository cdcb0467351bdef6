"""How a model is trained: the objective, and how long, how fast and in what steps."""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from ragkit.config.blocks import Block, EncoderOptions, InputPath, ModelRef, Precision


class Guide(Block):
    """Another encoder that says which candidates are no negatives (GISTEmbed)."""

    model: ModelRef = Field(description="an encoder: hub name, folder or run directory")
    margin: float = Field(
        0.0, description="leave out candidates this much above the positive's guide similarity"
    )
    encoder: EncoderOptions = EncoderOptions()


class Distillation(Block):
    """A term that teaches the scores of a reranker, read from the examples' `scores`."""

    method: Literal["kl", "margin_mse"] = Field("kl", description="of scores: softmax or margins")
    weight: float = Field(1.0, gt=0, description="of this term beside the contrastive one")
    contrastive_weight: float = Field(
        1.0, ge=0, description="of the contrastive term; 0: distillation alone"
    )
    teacher_temperature: float = Field(1.0, gt=0, description="the teacher's scores are divided")
    student_temperature: float | None = Field(
        None, gt=0, description="the encoder's are divided; unset: loss.temperature"
    )


Share = Annotated[float, Field(ge=0, lt=1)]


class Contrastive(Block):
    """The contrastive loss over in-batch passages and hard negatives, and what goes with it."""

    temperature: float = Field(0.05, gt=0, description="similarities are divided by it")
    n_negatives: int = Field(1, ge=0, description="hard negatives a question, drawn each epoch")
    hard_neg_ratio: float | None = Field(
        None,
        gt=0,
        description="instead: hard negatives a batch, drawn from those of all its questions, "
        "as a share of its size (LocalRQA's CTL)",
    )
    cross_device: bool = Field(
        True, description="on several devices, the passages of all are candidates"
    )
    symmetric: Share | Literal["dalm", "docchat"] = Field(
        0.0,
        description="share of the passage-to-query term; dalm: 0.5; "
        "docchat: 1 / (1 + passages a question)",
    )
    false_negative_margin: float | None = Field(
        None, description="leave out candidates this much above the positive's similarity"
    )
    guide: Guide | None = Field(None, description="another encoder finds false negatives")
    distillation: Distillation | None = Field(None, description="learn a reranker's scores too")
    matryoshka: list[PositiveInt] = Field(
        [], description="train the first so many dimensions too, e.g. [384, 256, 128, 64]"
    )
    matryoshka_weights: list[PositiveFloat] = Field(
        [], description="of the losses at these dimensions; unset: 1 each"
    )
    cached: bool = Field(
        False, description="encode in parts, twice: batches beyond the memory (GradCache)"
    )
    chunk_tokens: int = Field(16_384, gt=0, description="tokens encoded together where cached")

    @property
    def passages_per_query(self) -> float:
        """Positive and hard negatives of a question, on average."""
        return 1 + (self.n_negatives if self.hard_neg_ratio is None else self.hard_neg_ratio)

    @property
    def passage_share(self) -> float:
        """The share of the passage-to-query term, as a number."""
        named = {"dalm": 0.5, "docchat": 1 / (1 + self.passages_per_query)}
        return named[self.symmetric] if isinstance(self.symmetric, str) else self.symmetric

    @property
    def hard_negatives(self) -> bool:
        """Whether any are drawn."""
        return self.passages_per_query > 1

    @model_validator(mode="after")
    def _check_negatives(self) -> Self:
        if self.hard_neg_ratio is not None and self._is_changed("n_negatives"):
            raise ValueError("hard_neg_ratio: draws the hard negatives instead of n_negatives")
        if self.distillation and self.hard_neg_ratio is not None:
            raise ValueError(
                "hard_neg_ratio, distillation: one of them; the teacher scored each question's own "
                "negatives, and few questions of a batch would be given one of theirs"
            )
        if self.distillation and not self.hard_negatives:
            raise ValueError("distillation: needs hard negatives, and n_negatives is 0")
        return self

    @model_validator(mode="after")
    def _check_matryoshka(self) -> Self:
        if len(set(self.matryoshka)) < len(self.matryoshka):
            raise ValueError(f"matryoshka: {self.matryoshka} names a dimension twice")
        if self.matryoshka_weights and len(self.matryoshka_weights) != len(self.matryoshka):
            raise ValueError(
                f"matryoshka_weights: {len(self.matryoshka_weights)} weights for "
                f"{len(self.matryoshka)} dimensions of matryoshka"
            )
        return self

    @model_validator(mode="after")
    def _check_cached(self) -> Self:
        if self._is_changed("chunk_tokens") and not self.cached:
            raise ValueError("chunk_tokens: goes with cached: true")
        return self

    def _is_changed(self, name: str) -> bool:
        return bool(getattr(self, name) != type(self).model_fields[name].default)


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
    max_steps: int | None = Field(None, gt=0, description="instead: steps of the optimiser")
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
    report_to: list[Literal["tensorboard", "wandb", "trackio"]] = Field(
        [], description="where the history goes too"
    )
    deepspeed: InputPath | None = Field(
        None, description="a DeepSpeed file, e.g. configs/deepspeed/zero2.json; under torchrun"
    )
    fsdp: InputPath | None = Field(
        None, description="an FSDP file, e.g. configs/fsdp.json; under torchrun, on GPUs"
    )

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.max_steps is not None and self.epochs != type(self).model_fields["epochs"].default:
            raise ValueError("max_steps: says how long to train, and so does epochs; one of them")
        return self

    @model_validator(mode="after")
    def _one_way_to_shard(self) -> Self:
        if self.deepspeed and self.fsdp:
            raise ValueError("deepspeed, fsdp: one of them; both take the model apart")
        return self


Layers = Annotated[list[str], Field(min_length=1)]


class Lora(Block):
    """Low-rank adapters in place of all weights (LoRA)."""

    r: int = Field(16, gt=0, description="rank of the adapters")
    alpha: int = Field(32, gt=0, description="what they add is multiplied by alpha / r")
    dropout: float = Field(0.0, ge=0, lt=1, description="on their input, while training")
    target_modules: Literal["all-linear"] | Layers = Field(
        "all-linear", description="layers that get one; all-linear leaves heads out"
    )
    quantize: Literal["4bit"] | None = Field(
        None, description="hold the frozen base in 4 bits (QLoRA); needs a CUDA GPU"
    )
