"""Loading a language model and its tokenizer to train them, and what their folder says of both.

What does not fit together (a head without weights, a tokenizer of another vocabulary, no end token)
is refused before any work.
"""

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ragkit.errors import ModelError
from ragkit.log import logger
from ragkit.models.layouts import DAMAGED
from ragkit.models.loading import four_bits
from ragkit.models.resolve import resolve_model

_NO_LIMIT = 1_000_000  # tokenizers without a limit say 1e30
_HASHED = 1024  # numbers of each weight


@dataclass(frozen=True)
class Traits:
    """What a language model's folder says, beside its weights.

    decoder: it goes on from its prompt; else an encoder reads that
    ends: tokens that end an answer, the usual one first
    padding: token that fills rows up
    positions: tokens that it can read, and of a decoder write, at most
    """

    decoder: bool
    ends: tuple[int, ...]
    padding: int
    positions: int


def load_language_model(
    reference: str,
    *,
    dtype: torch.dtype = torch.float32,
    quantize: Literal["4bit"] | None = None,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """Load a causal or encoder-decoder model.

    Raises:
        ModelError: no such model, or one without all the weights of a language model.
        MissingExtraError: 4 bits without bitsandbytes.
    """
    folder = resolve_model(reference)
    how: dict[str, Any] = {"dtype": dtype, "trust_remote_code": trust_remote_code}
    if quantize:
        how |= four_bits()
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        with _quiet():
            loaded: Any = kind.from_pretrained(folder, output_loading_info=True, **how)
    except (*DAMAGED, ImportError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(f"{reference}: cannot be loaded as a generator: {reason}") from error
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        named = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise ModelError(
            f"{reference}: no generator: it has no weights for {named}; train an encoder by "
            "method: reader, or make a generator of it by: ragkit init-model"
        )
    assert isinstance(model, PreTrainedModel)
    return model


def saved_dtype(reference: str, trust_remote_code: bool = False) -> torch.dtype:
    """Return the precision in which a model's weights are kept."""
    folder = resolve_model(reference)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    return config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32


def load_tokenizer_of(
    reference: str, model: PreTrainedModel, trust_remote_code: bool = False
) -> tuple[PreTrainedTokenizerBase, Traits]:
    """Load a model's tokenizer, and say what both have agreed on.

    Raises:
        ModelError: no fast tokenizer, more tokens than the model knows, or no end token.
    """
    folder = resolve_model(reference)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (*DAMAGED, ImportError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(f"{reference}: its tokenizer cannot be loaded: {reason}") from error
    if not tokenizer.is_fast:
        raise ModelError(f"{reference}: its tokenizer has no fast form (tokenizer.json)")
    known = int(model.get_input_embeddings().num_embeddings)  # type: ignore[arg-type]
    if len(tokenizer) > known:
        raise ModelError(
            f"{reference}: its tokenizer has {len(tokenizer):,} tokens, and the model knows "
            f"{known:,}: they do not belong together"
        )
    return tokenizer, traits(reference, model, tokenizer)


def traits(reference: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Traits:
    """Return what a model and its tokenizer say.

    Raises:
        ModelError: neither has an end token.
    """
    said = getattr(model.generation_config, "eos_token_id", None)
    said = said if isinstance(said, list) else [said]
    decoder = not model.config.is_encoder_decoder
    own = [tokenizer.eos_token_id, None if decoder else tokenizer.sep_token_id]
    usual = own if decoder else []
    ends = tuple(dict.fromkeys(t for t in (*usual, *said, *own) if t is not None))
    if not ends:
        raise ModelError(
            f"{reference}: neither its tokenizer nor its generation_config.json has an end token "
            "(eos_token), so that no answer could end; add one to either"
        )
    padding = tokenizer.pad_token_id
    if padding is None:
        logger.info("%s has no padding token; its end token takes its place", reference)
        padding = ends[0]
    return Traits(decoder, ends, int(padding), _positions(model, tokenizer))


def fingerprint(model: PreTrainedModel) -> str:
    """Return a hash of a model's configuration and of a part of each of its weights.

    A part, as reading all of a large model takes minutes; training changes nearly every number.
    """
    settings = model.config.to_diff_dict()
    settings.pop("_name_or_path", None)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, weights in model.state_dict().items():
        digest.update(f"{name} {tuple(weights.shape)}".encode())
        part = weights.detach().flatten()[:_HASHED].cpu().contiguous()
        digest.update(part.view(torch.uint8).numpy())
    return digest.hexdigest()


def _positions(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    configs = [model.config, getattr(model.config, "encoder", None)]
    said = [getattr(c, "max_position_embeddings", None) for c in configs if c is not None]
    limits = [int(n) for n in said if n and int(n) > 0]
    return min([*limits, min(int(tokenizer.model_max_length), _NO_LIMIT)])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from a table of weights that are missing; that is told in a line."""
    library = logging.getLogger("transformers")
    level = library.level
    library.setLevel(logging.ERROR)
    try:
        yield
    finally:
        library.setLevel(level)
