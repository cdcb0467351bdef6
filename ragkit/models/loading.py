"""The transformer and the tokenizer of an encoder's tower, by architecture.

Encoders and decoders by `AutoModel`; of T5 the encoder alone; of DPR the BERT within.
"""

import importlib.util
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, normalizers, processors
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    BitsAndBytesConfig,
    DPRContextEncoder,
    DPRQuestionEncoder,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    T5EncoderModel,
)

from ragkit.config.blocks import EncoderOptions, Vectors
from ragkit.errors import MissingExtraError, ModelError
from ragkit.models.layouts import DAMAGED, EncoderSettings, TowerLayout
from ragkit.models.packing import is_causal

REPORTS = "transformers.modeling_utils"  # logs tables of weights that are missing
NO_LIMIT = 1_000_000  # tokenizers without a limit say 1e30


def load_tower(
    layout: TowerLayout, options: EncoderOptions, quantize: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, EncoderSettings]:
    """Load a tower's transformer and tokenizer; fp32 on the CPU, or in 4 bits on the GPU.

    Options that are set override what the model's folder says.

    Raises:
        ModelError: no such model, or one that is not of the kinds above.
        MissingExtraError: 4 bits without bitsandbytes.
    """
    place, remote = _place(layout), options.trust_remote_code
    try:
        config = AutoConfig.from_pretrained(**place, trust_remote_code=remote)
        model = _load_model(deepcopy(config), place, remote, quantize)
        tokenizer = AutoTokenizer.from_pretrained(**place, trust_remote_code=remote)
    except (*DAMAGED, ImportError) as error:
        reason = str(error).strip().split("\n")[0]
        if layout.source.count("/") == 1 and not Path(layout.source).exists():
            reason += f" (and there is no folder {layout.source} here)"
        raise ModelError(f"{layout.source}: cannot be loaded: {reason}") from error
    limits = positions(model), min(int(tokenizer.model_max_length), NO_LIMIT)
    settings = settings_of(layout, config, limits, options)
    if settings.lower_case:
        _lower_case(layout.source, tokenizer)
    if options.append_eos:
        _append_eos(layout.source, tokenizer)
    return model, tokenizer, settings


def _place(layout: TowerLayout) -> dict[str, Any]:
    """Return the arguments by which `from_pretrained` finds a tower's transformer."""
    if Path(layout.source).is_dir():
        path = str(Path(layout.source) / layout.transformer)
        return {"pretrained_model_name_or_path": path}
    subfolder = {"subfolder": layout.transformer} if layout.transformer else {}
    return {"pretrained_model_name_or_path": layout.source, **subfolder}


def _load_model(
    config: PretrainedConfig, place: dict[str, Any], remote: bool, quantize: str | None
) -> PreTrainedModel:
    if config.model_type == "dpr" and not quantize:
        return _load_dpr(config, place)
    how: dict[str, Any] = {"dtype": torch.float32}
    if quantize == "4bit":
        how |= four_bits()
    if config.model_type == "t5":
        return T5EncoderModel.from_pretrained(**place, **how)
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"{config.model_type} has an encoder and a decoder")
    config.use_cache = False  # keys and values are not needed after their one use
    model: PreTrainedModel = AutoModel.from_pretrained(
        **place, config=config, trust_remote_code=remote, **how
    )
    return model


def _load_dpr(config: PretrainedConfig, place: dict[str, Any]) -> BertModel:
    """Return the BERT of a question or context encoder of DPR (Karpukhin et al., 2020)."""
    if config.projection_dim:
        raise ValueError(f"a DPR encoder with projection_dim: {config.projection_dim}")
    is_context = "DPRContextEncoder" in (config.architectures or [])
    outer: Any = (DPRContextEncoder if is_context else DPRQuestionEncoder).from_pretrained(
        **place, dtype=torch.float32
    )
    inner = (outer.ctx_encoder if is_context else outer.question_encoder).bert_model
    values = {k: v for k, v in config.to_dict().items() if k in BertConfig().to_dict()}
    values |= {"model_type": "bert", "architectures": ["BertModel"]}
    bert = BertModel(BertConfig(**values), add_pooling_layer=False)
    bert.load_state_dict(inner.state_dict())
    return bert


def four_bits() -> dict[str, Any]:
    """Return the arguments that load a model in 4 bits, as QLoRA does (Dettmers et al., 2023)."""
    if not torch.cuda.is_available():
        raise ModelError("lora.quantize: 4bit needs a CUDA GPU, and this machine has none")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtraError("bitsandbytes", "quantize", "lora.quantize: 4bit")
    quantization = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {"quantization_config": quantization, "device_map": {"": torch.cuda.current_device()}}


def settings_of(
    layout: TowerLayout,
    config: PretrainedConfig,
    limits: Sequence[int],
    options: Vectors,
) -> EncoderSettings:
    """Return what the options, else the folder, else the architecture say.

    config: the one in the folder
    limits: tokens that the model has positions for, and that the tokenizer knows of
    Raises:
        ModelError: options ask for more tokens than there are positions.
    """
    # where the folder says a length, it overrules the tokenizer, as in sentence-transformers
    values = {"max_length": min(limits), **(layout.said or _plain_settings(config))}
    values["max_length"] = min(values["max_length"], limits[0])
    wanted = options.model_dump(include=set(EncoderSettings.__dataclass_fields__))
    values |= {key: value for key, value in wanted.items() if value is not None}
    if values["max_length"] > limits[0]:
        raise ModelError(
            f"max_length: {values['max_length']} is more than the {limits[0]} tokens "
            f"that {layout.source} has positions for"
        )
    return EncoderSettings(**values)


def _plain_settings(config: PretrainedConfig) -> dict[str, Any]:
    """Return how a plain Hugging Face model is pooled: mean, to unit vectors.

    Language models by their last token, as sentence-transformers does; DPR as it was trained.
    """
    if config.model_type == "dpr":
        return {"pooling": "cls", "normalize": False}
    is_decoder = (config.architectures or [""])[0].endswith("ForCausalLM")
    return {"pooling": "last" if is_decoder and is_causal(config) else "mean"}


def positions(model: PreTrainedModel) -> int:
    """Return how many tokens a model has positions for.

    In models of RoBERTa's kind the first positions of the table are those of padding.
    """
    count = int(getattr(model.config, "max_position_embeddings", 0) or 0)
    count = count if count > 0 else NO_LIMIT  # XLNet says -1
    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return count if padding is None else count - int(padding) - 1


def _lower_case(source: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Make a tokenizer lower its texts first, as sentence-transformers' do_lower_case does."""
    backend = _backend(source, tokenizer, "do_lower_case")
    first = [backend.normalizer] if backend.normalizer is not None else []
    backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *first])


def _append_eos(source: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Make a tokenizer end every text with its end-of-sequence token, if it does not already.

    The token stays when a text is cut, and is saved with the tokenizer.
    """
    token, number = tokenizer.eos_token, tokenizer.eos_token_id
    if number is None:
        raise ModelError(f"encoder.append_eos: the tokenizer of {source} has no such token")
    if tokenizer("a")["input_ids"][-1:] == [number]:
        return
    backend = _backend(source, tokenizer, "append_eos")
    ending = processors.TemplateProcessing(
        single=f"$A {token}", pair=f"$A {token} $B {token}", special_tokens=[(token, number)]
    )
    first = [backend.post_processor] if backend.post_processor is not None else []
    backend.post_processor = processors.Sequence([*first, ending])


def _backend(source: str, tokenizer: PreTrainedTokenizerBase, setting: str) -> Tokenizer:
    backend: Tokenizer | None = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(f"{source}: {setting} needs a fast tokenizer, and it has none")
    return backend
