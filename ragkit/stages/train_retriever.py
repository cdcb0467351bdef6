"""`ragkit train-retriever`: examples and a corpus into a trained encoder."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import Field, PositiveInt, ValidationInfo, field_validator, model_validator
from rich.console import RenderableType

from ragkit.config.blocks import EMBEDDED, Dense, EncoderOptions, InputPath, ModelRef, beside
from ragkit.config.training import Contrastive, Lora, Remining, TrainLoop
from ragkit.data.files import read_examples, read_json
from ragkit.data.schema import Example, Passage
from ragkit.errors import DataError
from ragkit.evaluation.ranking import evaluate
from ragkit.log import logger
from ragkit.models.adapters import add_adapters, merge_adapters, save_adapters
from ragkit.models.encoder import Encoder
from ragkit.retrieval.guards import CorpusWords
from ragkit.retrieval.negatives import Rules, remine
from ragkit.runs import Run
from ragkit.stages.sources import ExampleSource, bad_lines, read_sources
from ragkit.training.measuring import write_summary
from ragkit.training.remining import Remine
from ragkit.training.retriever import Evaluate, train_retriever
from ragkit.training.selection import dev_corpus, scorer

DISTRIBUTED = True


class Config(ExampleSource):
    """Configuration of `train-retriever`."""

    UNCOMPARED = ExampleSource.UNCOMPARED | {"report_to"}

    dev: InputPath | None = Field(
        None, description="examples that choose the best checkpoint; unset: dev.jsonl beside"
    )
    dev_corpus: Literal["full"] | PositiveInt = Field(
        "full",
        description="passages that dev questions are searched in: full, or about so many, the "
        "positives and mined negatives of dev always among them",
    )
    model: ModelRef = Field(EMBEDDED, description="the encoder to start from")
    encoder: EncoderOptions = EncoderOptions()
    towers: Literal["shared", "separate"] = Field(
        "shared",
        description="separate: questions and passages get a copy each of a model of one tower",
    )
    lora: Lora | None = Field(None, description="train adapters; unset: all weights")
    loss: Contrastive = Contrastive()
    loop: TrainLoop = TrainLoop()
    remine: Remining | None = Field(
        None, description="mine hard negatives again while training, by the encoder as it then is"
    )
    metric: str = Field("ndcg@10", description="dev metric that chooses the best checkpoint")

    @field_validator("metric")
    @classmethod
    def _known(cls, metric: str) -> str:
        try:
            evaluate({}, {}, [metric])
        except DataError as error:
            raise ValueError(str(error)) from error
        return metric

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        if self.remine and self.loss.guide:
            raise ValueError(
                "remine, loss.guide: one of them; the guide's vectors are of the passages that the "
                "examples name at the start"
            )
        if self.remine and not self.loss.hard_negatives:
            raise ValueError("remine: mines for nothing, as loss.n_negatives is 0")
        if self.remine and self.loss.distillation:
            raise ValueError(
                "remine, loss.distillation: one of them; what is mined while training has no "
                "teacher's scores"
            )
        if self.encoder.device != "auto":
            raise ValueError("encoder.device: training says it by loop.device; leave it unset")
        if self.lora and self.lora.quantize and (self.loop.deepspeed or self.loop.fsdp):
            raise ValueError(
                "lora.quantize: goes with neither loop.deepspeed nor loop.fsdp; a base in 4 bits "
                "is small enough for each process to hold"
            )
        return self

    @model_validator(mode="after")
    def _find_dev(self, info: ValidationInfo) -> Self:
        if self.dev is None:
            object.__setattr__(self, "dev", beside(self.examples, "dev.jsonl", info.context))
        return self


def run(config: Config, run: Run) -> None:
    """Train; write model/, checkpoints/, history.jsonl and metrics.json; with LoRA adapter/ too."""
    examples, corpus = read_sources(config, run)
    dev = read_examples(config.dev, corpus, bad_lines(config, run)) if config.dev else []
    if not dev:
        logger.warning("no dev examples: the last checkpoint is kept, not the best")
    encoder = _load(config, config.lora.quantize if config.lora else None)
    torch.manual_seed(config.seed)  # adapters begin at random
    adapters = add_adapters(encoder, config.lora) if config.lora else {}
    with run.timed("training"):
        trained = train_retriever(
            encoder,
            examples,
            corpus,
            run.path,
            loss=config.loss,
            loop=config.loop,
            score=_scorer(dev, corpus, config) if dev else None,
            metric=config.metric,
            seed=config.seed,
            remine=_reminer(examples, corpus, config.remine, config) if config.remine else None,
            remine_every=config.remine.every if config.remine else 1,
        )
    if not run.main:
        return
    if trained.dev_best is not None and trained.dev_best <= (trained.dev_before or 0.0):
        logger.warning("no checkpoint beats the encoder that training began with, on dev")
    if adapters:
        save_adapters(adapters, run / "adapter")
        encoder = _load(config)
        merge_adapters(encoder, run / "adapter")
    temporary = run / ".model"
    shutil.rmtree(temporary, ignore_errors=True)
    encoder.to("cpu").save(temporary)
    shutil.rmtree(run / "model", ignore_errors=True)
    temporary.rename(run / "model")
    # what an earlier process did of it is in there too
    trained = replace(trained, seconds=round(run.timings["training"], 1))
    write_summary(run / "metrics.json", trained, config.metric)


def show(path: Path) -> RenderableType:
    """Say what training changed, and where the encoder is."""
    report = read_json(path / "metrics.json")
    means = {name: m["mean"] for name, m in report["metrics"].items() if m["mean"] is not None}
    dev = ", ".join(f"{name} {mean:.4f}" for name, mean in means.items())
    seconds = report["timings"]["training_s"]
    return (
        f"{report['steps']} steps in {seconds:.0f} s; {dev or 'no dev examples'}"
        f"\nthe encoder is in {path / 'model'}"
    )


def _load(config: Config, quantize: Literal["4bit"] | None = None) -> Encoder:
    """Load the encoder to start from, with the towers that are asked for."""
    encoder = Encoder.load(config.model, config.encoder, quantize)
    if config.towers == "separate" and encoder.passage_tower is None:
        return encoder.with_passage_tower()
    return encoder


def _reminer(
    examples: list[Example], corpus: Mapping[str, Passage], again: Remining, config: Config
) -> Remine:
    """Return the function that gives the examples negatives by an encoder as it is."""
    words_of = CorpusWords(corpus)
    rules = Rules(**again.model_dump(exclude={"every"}), seed=config.seed)
    options = config.encoder.model_copy(update={"device": config.loop.device})

    def mined(encoder: Encoder) -> list[Example]:
        found = remine(encoder, examples, corpus, rules, options, words_of)
        negatives = sum(len(e.negative_ids) for e in found.examples)
        logger.info("%d negatives, %d examples have too few", negatives, len(found.too_few))
        return found.examples

    return mined


def _scorer(dev: list[Example], corpus: Mapping[str, Passage], config: Config) -> Evaluate:
    """Return the function that measures an encoder on dev; say over which passages."""
    searched = corpus
    if config.dev_corpus != "full":
        searched = dev_corpus(corpus, dev, config.dev_corpus, config.seed)
    sample = "all" if len(searched) == len(corpus) else "a sample of"
    logger.info(
        "the best checkpoint is chosen by %s of %d dev questions over %s %d passages",
        config.metric, len(dev), sample, len(searched),
    )  # fmt: skip
    options = config.encoder.model_copy(update={"device": config.loop.device})
    dense = Dense(type="dense", model=config.model, encoder=options)
    return scorer(dev, searched, dense, config.metric)
