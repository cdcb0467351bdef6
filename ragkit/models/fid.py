"""Generation by encoder-decoders that read several texts apart (fusion-in-decoder).

How they read is `ragkit.models.fused`'s business, what the texts say `ragkit.rag.prompting`'s; what
follows is chosen as by any generator.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ragkit.config.blocks import LocalModel
from ragkit.models import products
from ragkit.models.decoding import Row
from ragkit.models.fused import Texts, encoder_of, fused, pack, plain_model
from ragkit.models.generator import Generated, Generator


@dataclass
class FusedGenerator:
    """An encoder-decoder with its tokenizer, ready to answer from texts that it reads apart.

    It may be in training: how it is set, it is set again after each call.

    asked: as of `Generator`
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    config: LocalModel
    asked: Counter[int] = field(default_factory=Counter)

    @classmethod
    def load(cls, config: LocalModel) -> "FusedGenerator":
        """Load an encoder-decoder.

        Raises:
            ModelError: no such model, or one without an encoder.
        """
        loaded = Generator.load(config)
        encoder_of(loaded.model)
        return cls(loaded.model, loaded.tokenizer, config)

    def generate(self, prompts: Sequence[Texts]) -> list[Generated]:
        """Generate a text for each prompt; prompts of like length together.

        prompts: the tokens of the texts that each is answered from
        """

        def read(model: Any, rows: Sequence[Row], _: int) -> dict[str, Any]:
            packed = pack([prompts[row.position] for row in rows])
            given = {name: tensor.to(model.device) for name, tensor in packed.items()}
            with products.exact(model.device):
                states = encoder_of(model)(**given)
            return {"encoder_outputs": states, "attention_mask": given["attention_mask"]}

        plain = plain_model(self.model)
        generator = Generator(plain, self.tokenizer, self.config, self.asked)
        with _at_rest(plain), fused(plain):
            flat = [list(chain.from_iterable(texts)) for texts in prompts]
            found = dict(generator.generate_ids(flat, read))
        return [found[i] for i in range(len(prompts))]


@contextmanager
def _at_rest(model: nn.Module) -> Iterator[None]:
    """Set a model to evaluate, and each of its modules back to what it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
