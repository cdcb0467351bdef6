"""Generators: local causal and encoder-decoder models, from prompts to texts.

What a prompt says is `ragkit.rag.prompts`'s business.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ragkit.config.blocks import LocalModel
from ragkit.errors import ModelError
from ragkit.log import logger
from ragkit.models.decoding import Row, decode
from ragkit.models.devices import pick_device, use_bf16
from ragkit.models.resolve import resolve_model

_NO_LIMIT = 1_000_000  # tokenizers without a limit say 1e30
_HELD = 8  # characters that a stream keeps back: those after may still change them


@dataclass(frozen=True, slots=True)
class Generated:
    """A generated text, and how many tokens it and its prompt took.

    ids: its tokens, with that of its end or of a stop
    """

    text: str
    ids: tuple[int, ...]
    prompt_tokens: int = 0

    @property
    def tokens(self) -> int:
        """How many tokens were generated."""
        return len(self.ids)


@dataclass
class Generator:
    """A language model with its tokenizer, ready to generate.

    asked: how often each prompt was, by its hash, where tokens are drawn: other ones each time
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    config: LocalModel
    asked: Counter[int] = field(default_factory=Counter)

    @classmethod
    def load(cls, config: LocalModel) -> "Generator":
        """Load a causal or encoder-decoder model.

        Raises:
            ModelError: no such model, or one that does not generate.
        """
        folder = resolve_model(config.model)
        device = pick_device(config.device)
        options: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
        try:
            architecture = AutoConfig.from_pretrained(folder, **options)
            kind = (
                AutoModelForSeq2SeqLM if architecture.is_encoder_decoder else AutoModelForCausalLM
            )
            dtype = torch.bfloat16 if use_bf16(config.precision, device) else torch.float32
            model = kind.from_pretrained(folder, dtype=dtype, **options)
            # a decoder goes on from its last token; a question is worth more than what precedes it
            padding = "right" if architecture.is_encoder_decoder else "left"
            sides = {"padding_side": padding, "truncation_side": "left"}
            tokenizer = AutoTokenizer.from_pretrained(folder, **sides, **options)
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().split("\n")[0]
            raise ModelError(f"{config.model}: cannot be loaded: {reason}") from error
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        model.to(device).eval()  # type: ignore[arg-type]
        generator = cls(model, tokenizer, config)
        if not generator.ends:
            logger.warning("%s: no end token is known of it: its answers go on to max_new_tokens "
                           "(%d) or to a stop", config.model, config.max_new_tokens)  # fmt: skip
        return generator

    @property
    def is_decoder(self) -> bool:
        """Whether the model goes on from its prompt; else it has an encoder that reads it."""
        return not self.model.config.is_encoder_decoder

    @property
    def ends(self) -> list[int]:
        """Tokens that end an answer: the tokenizer's, and those that the model names."""
        named = self.model.generation_config.eos_token_id  # type: ignore[union-attr]
        several = named if isinstance(named, list) else [named]
        return [end for end in dict.fromkeys([self.tokenizer.eos_token_id, *several])
                if end is not None]  # fmt: skip

    @property
    def positions(self) -> int:
        """Tokens that the model can read: of prompt and answer, or of a prompt for an encoder."""
        return int(getattr(self.model.config, "max_position_embeddings", None) or _NO_LIMIT)

    @property
    def limit(self) -> int:
        """Tokens that it is meant for: those it can read, or fewer where its tokenizer says so."""
        return min(self.positions, int(self.tokenizer.model_max_length))

    def render(
        self,
        chat: Sequence[Mapping[str, str]],
        plain: Callable[[Sequence[Mapping[str, Any]]], str],
    ) -> str:
        """Return the prompt: by the tokenizer's chat template where it has one, else by `plain`."""
        if not self.tokenizer.chat_template:
            return plain(chat)
        return str(
            self.tokenizer.apply_chat_template(
                [dict(m) for m in chat], tokenize=False, add_generation_prompt=True
            )
        )

    def generate(self, prompts: Sequence[str]) -> list[Generated]:
        """Generate a text for each prompt, prompts of like length together.

        A prompt that leaves no room for the answer loses its beginning, which is said in the log.
        """
        if not prompts:
            return []
        room = self.limit - (self.config.max_new_tokens if self.is_decoder else 0)
        if room <= 0:
            raise ModelError(
                f"max_new_tokens: {self.config.max_new_tokens} leaves no room for a prompt in the "
                f"{self.limit} tokens of {self.config.model}"
            )
        special = not self.tokenizer.chat_template  # templates write their own special tokens
        tokens = self.tokenizer(list(prompts), add_special_tokens=special)["input_ids"]
        if cut := sum(len(ids) > room for ids in tokens):
            tokens = self.tokenizer(
                list(prompts), add_special_tokens=special, truncation=True, max_length=room
            )["input_ids"]
            logger.warning("%d of %d prompts are longer than %d tokens and lose their beginning",
                           cut, len(prompts), room)  # fmt: skip
        found = dict(self.generate_ids(tokens))
        return [found[i] for i in range(len(prompts))]

    def generate_ids(self, prompts: Sequence[Sequence[int]]) -> Iterator[tuple[int, Generated]]:
        """Yield (position, what follows the prompt's tokens) as texts are finished.

        Long prompts come first, `batch_size` together. What is drawn for a prompt depends on the
        seed, on the prompt, and on how often it was asked before, not on the others.

        Raises:
            ModelError: memory does not suffice for one prompt alone.
        """
        left = {i: self._times_asked(prompt) for i, prompt in enumerate(prompts)}
        size = self.config.batch_size
        while left:
            rows = [self._row(i, prompts[i], times) for i, times in left.items()]
            rows.sort(key=lambda row: -len(row.prompt))
            try:
                for stepped in self._decode(rows, size):
                    for row in stepped:
                        if row.done:
                            del left[row.position]
                            text = self._text(row.tokens)
                            yield row.position, Generated(text, tuple(row.tokens), len(row.prompt))
            except torch.OutOfMemoryError:
                longest = max(len(prompts[i]) for i in left)
            else:
                break
            size = self._halved(size, longest)  # out of the handler, which holds the tensors

    def stream(self, prompt: Sequence[int]) -> Iterator[str]:
        """Yield the text that follows a prompt's tokens in pieces, as it comes.

        Together they are what `generate_ids` makes of it.

        Raises:
            ModelError: memory does not suffice.
        """
        row = self._row(0, prompt, self._times_asked(prompt))
        held = max([_HELD, *map(len, self._stops())])
        said = 0
        try:
            for _ in self._decode([row], 1):
                text = self._text(row.tokens)
                ready = len(text) if row.done else len(text) - held
                if ready > said:
                    yield text[said:ready]
                    said = ready
        except torch.OutOfMemoryError:
            self._halved(1, len(prompt))

    def _decode(self, rows: Sequence[Row], size: int) -> Iterator[list[Row]]:
        config, stops, ends = self.config, self._stops(), self.ends
        window = max((len(stop.encode()) for stop in stops), default=0) + 1

        def is_done(row: Row) -> bool:
            if row.tokens[-1] in ends or len(row.tokens) >= config.max_new_tokens:
                return True
            # a token has a byte at least: what ends in a stop ends in so many tokens
            recent = self.tokenizer.decode(row.tokens[-window:]) if stops else ""
            return any(stop in recent for stop in stops)

        drawn = {"temperature": config.temperature, "top_p": config.top_p, "top_k": config.top_k}
        return decode(
            self.model, rows, size, is_done,
            max_new_tokens=config.max_new_tokens,
            eos_token_id=ends or None,
            pad_token_id=self.tokenizer.pad_token_id or 0,
            do_sample=config.temperature > 0,
            **(drawn if config.temperature else {}),
            use_cache=True,
            num_beams=1, num_return_sequences=1,
            stop_strings=None, cache_implementation=None,  # of the model's own configuration
        )  # fmt: skip

    def _row(self, position: int, prompt: Sequence[int], times: int) -> Row:
        seed = f"{self.config.seed} {times} {list(prompt)}"
        return Row(position, prompt, random.Random(seed) if self.config.temperature else None)

    def _times_asked(self, prompt: Sequence[int]) -> int:
        """Return how often the prompt was asked before; not counted where nothing is drawn."""
        if not self.config.temperature:
            return 0
        key = hash(tuple(prompt))
        self.asked[key] += 1
        return self.asked[key] - 1

    def _stops(self) -> list[str]:
        own = self.model.generation_config.stop_strings or []  # type: ignore[union-attr]
        return [*self.config.stop, *([own] if isinstance(own, str) else own)]

    def _text(self, tokens: Sequence[int]) -> str:
        """Return the text of generated tokens, up to the first stop in it."""
        text = str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))
        ends = [text.find(stop) for stop in self._stops()]
        return text[: min((end for end in ends if end >= 0), default=len(text))].strip()

    def _halved(self, size: int, longest: int) -> int:
        """Return half a batch size, or say what to lower where there is no half."""
        if size == 1:
            raise ModelError(
                f"{self.config.model}: out of memory with one prompt of {longest} tokens at a time "
                f"(batch_size: 1): lower max_new_tokens ({self.config.max_new_tokens}), or give "
                "fewer or shorter passages (n_passages, max_length)"
            )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        logger.warning("out of memory with batch_size: %d; going on with %d", size, size // 2)
        return size // 2
