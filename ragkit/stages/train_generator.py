"""`ragkit train-generator`: examples and a corpus into a trained generator or span reader."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, ValidationInfo, model_validator
from rich.console import RenderableType

from ragkit.config.answering import Prompting
from ragkit.config.blocks import EMBEDDED, InputPath, ModelRef, beside
from ragkit.config.generating import (
    GeneratorLoop,
    Method,
    Part,
    Passages,
    Pretraining,
    Watching,
    as_parts,
)
from ragkit.config.training import Lora
from ragkit.data.files import read_json, read_jsonl
from ragkit.errors import ConfigError
from ragkit.log import logger
from ragkit.models.resolve import base_of, resolve_model
from ragkit.runs import Run
from ragkit.stages.generator_reader import train_reader
from ragkit.stages.generator_text import train_text
from ragkit.stages.sources import ExampleSource
from ragkit.training.arguments import shards_weights
from ragkit.training.measuring import Trained, write_summary

DISTRIBUTED = True
B = TypeVar("B", bound=BaseModel)


class Config(ExampleSource):
    """Configuration of `train-generator`."""

    UNCOMPARED = ExampleSource.UNCOMPARED | {"report_to", "cache", "halve_batch"}

    method: Method = Field(
        "reader",
        description="reader: a span reader, learned in minutes on a CPU; sft: a generator on the "
        "right passages; swr: one on what a frozen retriever finds; fid: fusion-in-decoder",
    )
    model: ModelRef = Field(
        EMBEDDED,
        description="what to start from: an encoder (reader), an encoder-decoder (fid), or either "
        "of that and a decoder",
    )
    dev: InputPath | None = Field(
        None, description="examples that choose the best checkpoint; unset: dev.jsonl beside"
    )
    weight: float = Field(1.0, gt=0, description="share of the examples in a mixture")
    mixture: Annotated[list[Part], BeforeValidator(as_parts)] = Field(
        [],
        description="further files and their shares, `path: weight`: examples, with a corpus.jsonl "
        "of their own beside them or with this corpus; or chats (OpenChatKit's, or chat.jsonl)",
    )
    prompt: Prompting = Prompting()
    cite: bool = Field(
        False, description="end answers with the numbers of the passages that they stand in"
    )
    passages: Passages = Passages()
    max_length: int | None = Field(
        None,
        gt=8,
        description="tokens of prompt and answer; of a question with one passage (reader, fid); "
        "unset: 384 (reader), 2,048 or what the model has positions for",
    )
    max_answer_tokens: int | None = Field(
        None, gt=0, description="longest answer, in tokens; unset: 128, of a reader 40"
    )
    packing: bool = Field(
        True, description="lay sequences end to end instead of padding, where the model allows it"
    )
    pretrain: Pretraining | None = Field(
        None, description="learn to continue raw documents first; of decoders"
    )
    lora: Lora | None = Field(None, description="train adapters; unset: all weights")
    save: Literal["merged", "adapter"] = Field(
        "merged", description="with lora: a whole model, or the adapters alone"
    )
    loop: GeneratorLoop = GeneratorLoop()
    selection: Watching = Watching()
    trust_remote_code: bool = Field(False, description="run code that comes with a model")

    @model_validator(mode="after")
    def _fill_in(self, info: ValidationInfo) -> Self:
        """Put in what follows from the method where it is not said."""
        reads = self.method == "reader"
        rate = 1e-4 if self.lora else 2e-4 if reads else 1e-5
        loop = {"learning_rate": rate, "batch_size": 16 if reads else 8}
        gold = {"gold": "only" if self.method in ("reader", "sft") else "forced"}
        filled: dict[str, object] = {
            "dev": self.dev or beside(self.examples, "dev.jsonl", info.context),
            "max_answer_tokens": self.max_answer_tokens or (40 if reads else 128),
            "loop": _completed(self.loop, loop),
            "passages": _completed(self.passages, gold),
        }
        for key, value in filled.items():
            object.__setattr__(self, key, value)
        return self

    @property
    def longest_answer(self) -> int:
        """`max_answer_tokens`, given or filled in."""
        assert self.max_answer_tokens is not None
        return self.max_answer_tokens

    @model_validator(mode="after")
    def _fits_the_method(self) -> Self:
        """Refuse what the method would not look at."""
        method, problems = self.method, []
        generates = method in ("sft", "swr")
        gold = self.passages.gold
        if (method == "sft") != (gold == "only") and method in ("sft", "swr"):
            problems.append(
                f"passages.gold: {gold}: is method: {'swr' if method == 'sft' else 'sft'}"
            )
        for name, goes in (
            ("cite", generates),
            ("weight", generates),
            ("mixture", generates),
            ("pretrain", generates),
            ("prompt", method != "reader"),
            ("packing", generates),
            ("save", method != "reader"),
        ):
            default = type(self).model_fields[name].default
            if not goes and getattr(self, name) != default:
                problems.append(f"{name}: does not go with method: {method}")
        told = self.prompt.model_copy(update={"refusal": Prompting().refusal})
        if method == "fid" and told != Prompting():
            problems.append(
                "prompt: of method: fid no instructions are read; set prompt.refusal only"
            )
        if method == "reader" and self.loop.neftune_alpha:
            problems.append("loop.neftune_alpha: does not go with method: reader")
        if method == "reader" and self.lora and self.lora.quantize:
            problems.append("lora.quantize: does not go with method: reader")
        if self.save == "adapter" and not self.lora:
            problems.append("save: adapter: needs lora")
        if self.lora and self.lora.quantize and (self.loop.deepspeed or self.loop.fsdp):
            problems.append("lora.quantize: goes with neither loop.deepspeed nor loop.fsdp")
        if problems:
            raise ValueError("; ".join(problems))
        return self


def run(config: Config, run: Run) -> None:
    """Train; write model/, checkpoints/, history.jsonl, samples.jsonl and metrics.json."""
    _check_model(config.model)
    _check_selection(config)
    trained = (train_reader if config.method == "reader" else train_text)(config, run)
    if not run.main:
        return
    if trained.dev_best is not None and _no_better(trained, config.selection.metric):
        logger.warning(
            "no checkpoint beats the model that training began with, on dev: train longer "
            "(loop.epochs) or at another loop.learning_rate (%g), or look at samples.jsonl",
            config.loop.learning_rate,
        )
    # what an earlier process did of it is in there too
    trained = replace(trained, seconds=round(run.timings["training"], 1))
    write_summary(run / "metrics.json", trained, config.selection.metric)


def show(path: Path) -> RenderableType:
    """Say what training changed, what the model says to dev questions, and where it is."""
    report = read_json(path / "metrics.json")
    means = {name: m["mean"] for name, m in report["metrics"].items() if m["mean"] is not None}
    dev = ", ".join(f"{name} {mean:.4f}" for name, mean in means.items())
    seconds = report["timings"]["training_s"]
    lines = [f"{report['steps']} steps in {seconds:.0f} s; {dev or 'no dev examples'}"]
    samples = read_jsonl(path / "samples.jsonl") if (path / "samples.jsonl").exists() else []
    for sample in (s for s in samples if s["step"] == report["best_step"]):
        wanted = sample["references"][0] if sample["references"] else "(unanswerable)"
        said = sample["answer"] or "(nothing)"
        lines.append(f"  {sample['question']}\n    -> {said}\n    reference: {wanted}")
    return "\n".join([*lines, f"the model is in {path / 'model'}"])


def _completed(block: B, values: Mapping[str, object]) -> B:
    """Return a block with values in place of those that are not given."""
    missing = {key: value for key, value in values.items() if getattr(block, key) is None}
    return type(block).model_validate({**block.model_dump(exclude_unset=True), **missing})


def _check_model(reference: str) -> None:
    """Refuse to begin with adapters alone: what is trained beside them would not be kept."""
    folder = resolve_model(reference)
    if base_of(folder) != folder:
        raise ConfigError(
            f"model: {reference}: adapters without the model that they are for; train them with "
            "save: merged to go on from there"
        )


def _check_selection(config: Config) -> None:
    """Refuse to generate from a model that no process has whole."""
    if config.dev is None:
        logger.warning("no dev examples: the last checkpoint is kept, not the best")
        return
    generates = config.selection.metric != "loss" or config.selection.samples
    if generates and shards_weights(config.loop):
        raise ConfigError(
            "selection.metric: loop.fsdp and DeepSpeed's stage 3 leave no process a whole model to "
            "generate with: set selection.metric: loss and selection.samples: 0"
        )


def _no_better(trained: Trained, metric: str) -> bool:
    best, before = trained.dev_best, trained.dev_before
    if best is None or before is None:
        return False
    return bool(best >= before if metric == "loss" else best <= before)
