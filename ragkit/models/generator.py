"""Generators: local causal and encoder-decoder models, from prompts to texts.

What a prompt says is `ragkit.rag.prompts`'s business.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ragkit.config.blocks import LocalModel
from ragkit.errors import ModelError
from ragkit.log import logger
from ragkit.models.decoding import Reading, Row, decode
from ragkit.models.devices import pick_device, use_bf16
from ragkit.models.pretrained import Traits, load_language_model, load_tokenizer_of, traits

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
        device = pick_device(config.device)
        dtype = torch.bfloat16 if use_bf16(config.precision, device) else torch.float32
        remote = config.trust_remote_code
        model = load_language_model(config.model, dtype=dtype, trust_remote_code=remote)
        tokenizer = load_tokenizer_of(config.model, model, remote)
        tokenizer.truncation_side = "left"  # a question is worth more than what precedes it
        model.to(device).eval()  # type: ignore[arg-type]
        generator = cls(model, tokenizer, config)
        if not generator.traits.ends:
            logger.warning("%s: no end token is known of it: its answers go on to max_new_tokens "
                           "(%d) or to a stop", config.model, config.max_new_tokens)  # fmt: skip
        return generator

    @property
    def traits(self) -> Traits:
        """What model and tokenizer say."""
        return traits(self.model, self.tokenizer)

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
        its = self.traits
        room = its.limit - (self.config.max_new_tokens if its.decoder else 0)
        if room <= 0:
            raise ModelError(
                f"max_new_tokens: {self.config.max_new_tokens} leaves no room for a prompt in the "
                f"{its.limit} tokens of {self.config.model}"
            )
        special = not self.tokenizer.chat_template  # templates write their own special tokens
        tokens = self.tokenizer(list(prompts), add_special_tokens=special, verbose=False)[
            "input_ids"
        ]
        if cut := sum(len(ids) > room for ids in tokens):
            tokens = self.tokenizer(
                list(prompts), add_special_tokens=special, truncation=True, max_length=room
            )["input_ids"]
            logger.warning("%d of %d prompts are longer than %d tokens and lose their beginning",
                           cut, len(prompts), room)  # fmt: skip
        found = dict(self.generate_ids(tokens))
        return [found[i] for i in range(len(prompts))]

    def generate_ids(
        self, prompts: Sequence[Sequence[int]], read: Reading | None = None
    ) -> Iterator[tuple[int, Generated]]:
        """Yield (position, what follows the prompt's tokens) as texts are finished.

        Long prompts come first, `batch_size` together. What is drawn for a prompt depends on the
        seed, on the prompt, and on how often it was asked before, not on the others.

        read: how prompts are read, if not as one text each
        Raises:
            ModelError: memory does not suffice for one prompt alone.
        """
        left = {i: self._times_asked(prompt) for i, prompt in enumerate(prompts)}
        size = self.config.batch_size
        while left:
            rows = [self._row(i, prompts[i], times) for i, times in left.items()]
            rows.sort(key=lambda row: -len(row.prompt))
            try:
                for stepped in self._decode(rows, size, read):
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

    def _decode(
        self, rows: Sequence[Row], size: int, read: Reading | None = None
    ) -> Iterator[list[Row]]:
        config, stops, its = self.config, self._stops(), self.traits
        window = max((len(stop.encode()) for stop in stops), default=0) + 1

        def is_done(row: Row) -> bool:
            if row.tokens[-1] in its.ends or len(row.tokens) >= config.max_new_tokens:
                return True
            # a token has a byte at least: what ends in a stop ends in so many tokens
            recent = self.tokenizer.decode(row.tokens[-window:]) if stops else ""
            return any(stop in recent for stop in stops)

        drawn = {"temperature": config.temperature, "top_p": config.top_p, "top_k": config.top_k}
        return decode(
            self.model, rows, size, is_done, read,
            max_new_tokens=config.max_new_tokens,
            decoder_start_token_id=its.start,
            eos_token_id=list(its.ends) or None,
            pad_token_id=its.padding,
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
