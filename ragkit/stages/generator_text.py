"""How train-generator trains what writes its answers: decoders, encoder-decoders, FiD."""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedTokenizerBase

from ragkit.config.blocks import Columns, LocalModel
from ragkit.data.documents import read_documents
from ragkit.data.files import sha256_texts
from ragkit.data.schema import Example, Passage
from ragkit.errors import ConfigError
from ragkit.log import logger
from ragkit.models import packing
from ragkit.models.adapters import continue_adapters, merged, with_adapters
from ragkit.models.devices import pick_device, use_bf16
from ragkit.models.fid import generate_fused
from ragkit.models.fused import encoder_of
from ragkit.models.generator import Generated, Generator
from ragkit.models.pretrained import (
    fingerprint,
    load_language_model,
    load_tokenizer_of,
    saved_dtype,
    traits,
)
from ragkit.rag.generated import answer_of
from ragkit.rag.prompting import Prompt, Prompter
from ragkit.runs import Run
from ragkit.stages.generator_data import Asked, Chats, read_parts
from ragkit.stages.generator_training import card_of, keep_model, made_from, train, watched
from ragkit.training.causal import CausalObjective
from ragkit.training.conversations import chat_items
from ragkit.training.documents import document_pieces, whole_documents
from ragkit.training.fitting import BEST, Model, Objective, fit
from ragkit.training.given import Given
from ragkit.training.items import Item
from ragkit.training.measuring import Trained
from ragkit.training.mixture import Mixture, Source
from ragkit.training.noise import add_noise
from ragkit.training.questions import Questions, usable
from ragkit.training.seq2seq import seq2seq

if TYPE_CHECKING:
    from ragkit.stages.train_generator import Config

_USUAL_LENGTH = 2048


@dataclass
class TextTask:
    """A model that is trained and asked by prompts, and the parts that this takes.

    spare: the model that was loaded to see what it is, for its first use
    context: within it an encoder-decoder reads what its objective collates
    """

    config: "Config"
    spare: Any = None
    context: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        config = self.config
        self.spare = self._base()
        self.hash = fingerprint(self.spare)
        self.tokenizer = load_tokenizer_of(config.model, self.spare, config.trust_remote_code)
        self.traits = traits(self.spare, self.tokenizer)
        _ = self.traits.end  # refuses a model without one
        if config.method == "fid":
            encoder_of(self.spare)  # refuses a model without one
        self.prompter = self._prompter()
        self.offset = packing.position_offset(self.spare.config) if config.packing else None
        if self.traits.decoder and config.packing and self.offset is None:
            logger.info(
                "sequences are padded: packing is not supported of %s", self.spare.config.model_type
            )

    def _prompter(self) -> Prompter:
        config, its = self.config, self.traits
        prompter = Prompter.of(
            self.tokenizer,
            its,
            config.max_length or min(_USUAL_LENGTH, its.limit),
            config.longest_answer,
            prompt=config.prompt,
            cite=config.cite,
            fused=config.method == "fid",
        )
        if its.decoder and not prompter.uses_template:
            logger.info("prompts are written by prompt.plain: %s", _why_plain(self.tokenizer))
        return prompter

    def _base(self) -> Any:
        """Load the model as it is trained: adapters on a base in bf16 or 4 bits, else in fp32."""
        config, lora = self.config, self.config.lora
        device = pick_device(config.loop.device)
        small = lora is not None and use_bf16(config.loop.precision, device)
        return load_language_model(
            config.model,
            dtype=torch.bfloat16 if small else torch.float32,
            quantize=lora.quantize if lora else None,
            trust_remote_code=config.trust_remote_code,
        )

    def load(self, folder: Path | None = None) -> tuple[Model, Objective]:
        """Return a model to train, and what it learns.

        folder: where an earlier training left it, or its adapters; None: as it was given
        """
        spare, self.spare = self.spare, None
        if folder is not None and not self.config.lora:
            remote = self.config.trust_remote_code
            base: Any = load_language_model(str(folder), trust_remote_code=remote)
        else:
            base = spare or self._base()
        for name, weights in base.named_parameters():
            if ".pooler." in name:  # of an encoder; nothing reads it, and processes would wait
                weights.requires_grad = False
        objective = self._objective(base)
        model: Model = base
        if self.config.lora and folder is not None:
            model = continue_adapters(base, folder)
        elif self.config.lora:
            torch.manual_seed(self.config.seed)  # adapters begin at random
            model = with_adapters(base, self.config.lora)
        if self.config.loop.neftune_alpha:
            add_noise(base, self.config.loop.neftune_alpha, objective.lengths_of)
        return model, objective

    def _objective(self, base: Any) -> Any:
        if not self.traits.decoder:
            return self.context.enter_context(seq2seq(base, self.tokenizer))
        if self.offset is not None:
            base.set_attn_implementation(packing.IMPLEMENTATION)
        return CausalObjective(self.traits.padding, self.offset)

    def answer(
        self, model: Model, examples: Sequence[Example], given: Given
    ) -> list[tuple[str, bool]]:
        """Return what a model says to dev examples, and whether it declines."""
        prompts = [self.prompter.write(e, given.evaluation(e)) for e in examples]
        asked = [(i, p) for i, p in enumerate(prompts) if p is not None]
        said = self._generate(model, [p for _, p in asked])
        texts = dict(zip((i for i, _ in asked), (g.text for g in said), strict=True))
        answers = [
            answer_of(texts.get(i, ""), given.evaluation(e), self.prompter)
            for i, e in enumerate(examples)
        ]
        return [(answer.text, answer.abstained) for answer in answers]

    def _generate(self, model: Any, prompts: Sequence[Prompt]) -> list[Generated]:
        config = self.config
        settings = LocalModel(
            model=config.model,
            max_new_tokens=config.longest_answer,
            batch_size=2 * config.loop.batch,
        )
        generator = Generator(model, self.tokenizer, settings)
        if not self.traits.decoder:
            return generate_fused(generator, [p.texts for p in prompts])
        with packing.attending(model, "sdpa"):
            found = dict(generator.generate_ids([p.texts[0] for p in prompts]))
        return [found[i] for i in range(len(prompts))]


def train_text(config: "Config", run: Run) -> Trained:
    """Train what writes its answers; leave it in model/."""
    task = TextTask(config)  # what is wrong with the model is told before anything is searched
    parts = read_parts(config, run)
    asked, chats = parts.asked, parts.chats
    if not task.traits.decoder and (chats or config.pretrain):
        raise ConfigError(
            f"{config.model}: chats and raw documents are learned by decoders, and this reads by "
            "an encoder; leave them out of mixture and pretrain"
        )
    learned = [_learned(part, task) for part in asked]
    sources = [
        Source(len(q.examples), q.item, p.weight, p.where)
        for q, p in zip(learned, asked, strict=True)
    ]
    sources += [_source_of_chats(part, task) for part in chats]
    made = made_from(config, task.hash, [*asked, *chats])
    dev = watched(config, run, parts.dev, task.answer, _dev_items(parts.dev, task))
    with task.context:
        begun = _pretrain(config, run, task, asked[0].given.corpus, made)
        trained = train(config, run, partial(task.load, begun), sources, made, dev)
    if run.main:
        _keep(config, run, task)
    return trained


def _learned(part: Asked, task: TextTask) -> Questions:
    most = task.config.longest_answer
    kept = usable(part.examples, part.given, task.prompter, most, part.where)
    return Questions(kept, part.given, task.prompter)


def _source_of_chats(part: Chats, task: TextTask) -> Source:
    items = chat_items(part.chats, task.prompter, part.where)
    return Source(len(items), lambda number, _: items[number], part.weight, part.where)


def _dev_items(part: Asked | None, task: TextTask) -> list[Item]:
    if part is None:
        return []
    questions = Questions(part.examples, part.given, task.prompter)
    items = [questions.dev_item(i) for i in range(len(part.examples))]
    return [item for item in items if item is not None]


def _pretrain(
    config: "Config",
    run: Run,
    task: TextTask,
    corpus: Mapping[str, Passage],
    made: Mapping[str, Any],
) -> Path | None:
    """Have the model continue raw documents; return where that left it."""
    if config.pretrain is None:
        return None
    documents = _documents(config, run, corpus)
    length = min(config.pretrain.max_length, task.traits.positions)
    pieces = document_pieces(documents, task.tokenizer, task.traits.end, length)
    logger.info("%d documents are continued first, in %d sequences", len(documents), len(pieces))
    loop = config.loop.model_copy(
        update={
            "epochs": config.pretrain.epochs,
            "max_steps": None,
            "learning_rate": config.pretrain.learning_rate,
        }
    )
    with run.timed("pretraining"):
        fit(
            task.load,
            Mixture([Source(len(pieces), lambda number, _: pieces[number].item)], config.seed),
            run / "pretrain",
            loop=loop,
            made_from={**made, "data": sha256_texts(documents.values())},
            seed=config.seed,
        )
    return run / "pretrain" / BEST


def _documents(config: "Config", run: Run, corpus: Mapping[str, Passage]) -> dict[str, str]:
    assert config.pretrain is not None
    if config.pretrain.input is None:
        return whole_documents(corpus)
    found = read_documents(config.pretrain.input, Columns())
    return {
        f"{n}": f"{d.heading}\n\n{d.text}" if d.heading else d.text for n, d in enumerate(found)
    }


def _keep(config: "Config", run: Run, task: TextTask) -> None:
    """Make model/ of the weights that training left; with adapters adapter/, too."""
    remote = config.trust_remote_code
    dtype = saved_dtype(config.model, remote)

    def save(folder: Path) -> None:
        best = run / BEST
        if config.save == "adapter":
            shutil.copytree(best, folder)
        elif config.lora:
            base = load_language_model(config.model, dtype=dtype, trust_remote_code=remote)
            merged(base, best).save_pretrained(folder)
        else:
            whole = load_language_model(str(best), dtype=dtype, trust_remote_code=remote)
            whole.save_pretrained(folder)
        task.tokenizer.save_pretrained(folder)

    told = config.prompt.model_dump(mode="json")
    card = card_of(config, task.prompter.max_length, prompt=told, cite=config.cite)
    keep_model(run, save, card, config.lora is not None)


def _why_plain(tokenizer: PreTrainedTokenizerBase) -> str:
    has = bool(tokenizer.chat_template)
    return "prompt.template says so" if has else "the tokenizer has no chat template"
