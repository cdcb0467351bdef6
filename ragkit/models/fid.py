"""Generation by encoder-decoders that read several texts apart (fusion-in-decoder).

How they read is `ragkit.models.fused`'s business, what the texts say `ragkit.rag.prompting`'s; what
follows is chosen as by any generator.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from typing import Any

from torch import nn

from ragkit.models import products
from ragkit.models.decoding import Row
from ragkit.models.fused import Texts, encoder_of, fused, pack, plain_model
from ragkit.models.generator import Generated, Generator


def generate_fused(generator: Generator, prompts: Sequence[Texts]) -> list[Generated]:
    """Generate a text for each prompt by an encoder-decoder; prompts of like length together.

    Its model may be in training: how it is set, it is set again.

    prompts: the tokens of the texts that each is answered from
    Raises:
        ModelError: a model without an encoder, or memory does not suffice for one prompt alone.
    """

    def read(model: Any, rows: Sequence[Row], _: int) -> dict[str, Any]:
        packed = pack([prompts[row.position] for row in rows])
        given = {name: tensor.to(model.device) for name, tensor in packed.items()}
        with products.exact(model.device):
            states = encoder_of(model)(**given)
        return {"encoder_outputs": states, "attention_mask": given["attention_mask"]}

    plain = replace(generator, model=plain_model(generator.model))
    with _at_rest(plain.model), fused(plain.model):
        flat = [list(chain.from_iterable(texts)) for texts in prompts]
        found = dict(plain.generate_ids(flat, read))
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
