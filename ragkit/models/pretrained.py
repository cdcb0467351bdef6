"""Loading a language model and its tokenizer, and what both say beside the weights.

The same for training and for use, so that both agree how answers begin and end and what has room.
What does not fit together (a head without weights, a tokenizer of another vocabulary) is refused.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ragkit.errors import ModelError
from ragkit.log import hushed, logger
from ragkit.models.fused import name_of, plain_model
from ragkit.models.layouts import DAMAGED
from ragkit.models.loading import REPORTS, four_bits, positions
from ragkit.models.resolve import base_of, resolve_model

_HASHED = 1024  # numbers of each weight


@dataclass(frozen=True)
class Traits:
    """What a language model and its tokenizer say, beside the weights.

    name: of the model, for messages
    start: token that the decoder of an encoder-decoder begins with; None: it is a decoder, which
        goes on from its prompt
    ends: tokens that end an answer, the usual one first; none where neither names any
    padding: token that fills rows up
    positions: tokens that it can read; of a decoder, and write
    answer_positions: tokens that it can write
    limit: tokens that it is meant for: its positions, or fewer where the tokenizer says so
    """

    name: str
    start: int | None
    ends: tuple[int, ...]
    padding: int
    positions: int
    answer_positions: int
    limit: int

    @property
    def decoder(self) -> bool:
        """Whether it goes on from its prompt; else an encoder reads that."""
        return self.start is None

    @property
    def end(self) -> int:
        """The usual token of end.

        Raises:
            ModelError: neither model nor tokenizer names one.
        """
        if not self.ends:
            raise ModelError(
                f"{self.name}: neither its tokenizer nor its generation_config.json has an end "
                "token (eos_token), so that no answer could end; add one to either"
            )
        return self.ends[0]


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
        config = AutoConfig.from_pretrained(base_of(folder), trust_remote_code=trust_remote_code)
        kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        with hushed(REPORTS):
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
) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer.

    Raises:
        ModelError: no fast tokenizer, or more tokens than the model knows.
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
    if tokenizer.pad_token_id is None:
        logger.info("%s has no padding token; its end token takes its place", reference)
    return tokenizer


def traits(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> Traits:
    """Return what a model, peft's around it or not, and its tokenizer say.

    Raises:
        ModelError: an encoder-decoder that names no token to begin an answer with.
    """
    plain: Any = plain_model(model)
    decoder = not plain.config.is_encoder_decoder
    parts = [plain] if decoder else [plain.get_encoder(), plain.get_decoder()]
    rooms = [positions(part.base_model) for part in parts]
    ends, padding = _ends(plain, tokenizer, decoder), tokenizer.pad_token_id
    return Traits(
        name=name_of(plain),
        start=None if decoder else _start(plain, tokenizer),
        ends=ends,
        padding=int(next(t for t in (padding, *ends, 0) if t is not None)),
        positions=rooms[0],
        answer_positions=rooms[-1],
        limit=min(rooms[0], int(tokenizer.model_max_length)),
    )


def _start(model: Any, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the token that the decoder of an encoder-decoder begins with.

    The one that the model names; else [CLS] of an EncoderDecoderModel, whose decoder was an
    encoder; else, as `generate` has it, that of a beginning.
    """
    settings = model.generation_config
    known = (
        settings.decoder_start_token_id,
        getattr(model.config, "decoder_start_token_id", None),
        tokenizer.cls_token_id if model.config.model_type == "encoder-decoder" else None,
        settings.bos_token_id,
    )
    start = next((token for token in known if token is not None), None)
    if start is None:
        raise ModelError(
            f"{name_of(model)}: it names no token that its decoder begins with: give its "
            "generation_config.json a decoder_start_token_id (T5's is that of padding)"
        )
    return int(start)


def _ends(model: Any, tokenizer: PreTrainedTokenizerBase, decoder: bool) -> tuple[int, ...]:
    """Return all that model and tokenizer name; [SEP] where both name none, as BERT's do.

    Chat templates end an answer by the tokenizer's own, so that of a decoder is its usual one.
    """
    said, own = model.generation_config.eos_token_id, tokenizer.eos_token_id
    listed = said if isinstance(said, list) else [said]
    named = [own, *listed] if decoder else [*listed, own]
    if not decoder and set(named) == {None}:
        named = [tokenizer.sep_token_id]
    return tuple(dict.fromkeys(token for token in named if token is not None))


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
