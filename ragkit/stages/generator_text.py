"""How train-generator trains what writes its answers: decoders, encoder-decoders, FiD."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedTokenizerBase

from ragkit.config.blocks import LocalModel
from ragkit.data.schema import Example, Passage
from ragkit.log import logger
from ragkit.models import packing
from ragkit.models.adapters import continue_adapters, with_adapters
from ragkit.models.devices import pick_device, use_bf16
from ragkit.models.fid import FusedGenerator
from ragkit.models.fused import encoder_of
from ragkit.models.generator import Generated, Generator
from ragkit.models.pretrained import fingerprint, load_language_model, load_tokenizer_of, traits
from ragkit.models.replies import without_thought
from ragkit.rag.prompting import Prompt, Prompter
from ragkit.rag.prompts import is_refusal, without_citations
from ragkit.training.causal import CausalObjective
from ragkit.training.fitting import Model, Objective
from ragkit.training.given import Given
from ragkit.training.noise import add_noise
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
        base, self.spare = self.spare or self._base(), None
        if folder is not None and not self.config.lora:
            base = load_language_model(str(folder))
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
        return [self._judged(texts.get(i, ""), given.evaluation(e)) for i, e in enumerate(examples)]

    def _generate(self, model: Any, prompts: Sequence[Prompt]) -> list[Generated]:
        config = self.config
        settings = LocalModel(
            model=config.model,
            max_new_tokens=config.longest_answer,
            batch_size=2 * config.loop.batch,
        )
        if not self.traits.decoder:
            fused = FusedGenerator(model, self.tokenizer, settings)
            return fused.generate([p.texts for p in prompts])
        with packing.attending(model, "sdpa"):
            generator = Generator(model, self.tokenizer, settings)
            found = dict(generator.generate_ids([p.texts[0] for p in prompts]))
        return [found[i] for i in range(len(prompts))]

    def _judged(self, text: str, passages: Sequence[Passage]) -> tuple[str, bool]:
        said = without_thought(text).strip()
        if self.config.cite:
            said = without_citations(said, passages)[0]
        return said, is_refusal(said, self.config.prompt.refusal)


def _why_plain(tokenizer: PreTrainedTokenizerBase) -> str:
    has = bool(tokenizer.chat_template)
    return "prompt.template says so" if has else "the tokenizer has no chat template"
