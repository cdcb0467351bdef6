"""Generators to begin with: small ones at random, or an encoder that is given a decoder.

What is made here are plain models and tokenizers, for `AutoModelForCausalLM` or
`AutoModelForSeq2SeqLM` and `AutoTokenizer`. They answer nothing yet: training them is
`ragkit.training`'s business.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import (
    BertConfig,
    BertLMHeadModel,
    BertModel,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from ragkit.config.blocks import EncoderOptions
from ragkit.config.initial import T5, Architecture, Causal, EncoderDecoder
from ragkit.errors import ModelError
from ragkit.models.layouts import read_layout
from ragkit.models.loading import load_tower, positions
from ragkit.models.resolve import resolve_model

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
_T5_TOKENS = 512  # T5 has positions for any length; its own tokenizers say this
_CHAT = (
    "{% for message in messages %}"
    "{{ bos_token + message['role'] + '\\n' + message['content'] + eos_token + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ bos_token + 'assistant\\n' }}{% endif %}"
)
# The activation of a prediction head is a straight line for states as small as this makes them.
_SMALL = 0.1
# Spaces that WordPiece puts where texts have none: around what stands inside a word or a number,
# before what closes and after what opens.
_NO_SPACE = "|".join(
    (
        r" (?=[.,;:!?%)\]}])",
        r"(?<=[(\[{$£€]) ",
        r"(?<=\w) (?=[-–/_] \w)|(?<=\w [-–/_]) (?=\w)",
        r"(?<=\w) (?=['’] (?:s|t|d|m|re|ve|ll)\b)|(?<=\w ['’]) (?=(?:s|t|d|m|re|ve|ll)\b)",
        r"(?<=\b\d ,|\b\d\d ,|\b\d\d\d ,) (?=\d\d\d\b)|(?<=\d \.) (?=\d)|(?<=\d :) (?=\d\d\b)",
        r"(?<=\b\p{L} \.) (?=\p{L}\b|\d)",
    )
)


Pair = tuple[PreTrainedModel, PreTrainedTokenizerBase]


@dataclass(frozen=True)
class Fit:
    """How a tokenizer takes a corpus.

    unknown: tokens that stand for what it has none for
    """

    words: int
    tokens: int
    unknown: int


def make_initial(architecture: Architecture, texts: Iterable[str], seed: int) -> Pair:
    """Make a generator that is not trained; the same seed and texts give the same weights.

    texts: what a tokenizer is trained on; of a warm start, what says how frequent tokens are
    Raises:
        ModelError: an encoder that is no BERT, or has fewer layers than the decoder shall get.
    """
    torch.manual_seed(seed)
    match architecture:
        case Causal():
            model, tokenizer = _causal(architecture, texts)
        case T5():
            model, tokenizer = _t5(architecture, texts)
        case EncoderDecoder():
            model, tokenizer = _encoder_decoder(architecture, texts)
    model.train(False)
    return model, tokenizer


def fit(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Fit:
    """Count the words of texts, and the tokens that they become."""
    words = tokens = unknown = 0
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        words += len(text.split())
        tokens += len(ids)
        unknown += ids.count(tokenizer.unk_token_id)
    return Fit(words, tokens, unknown)


def _causal(architecture: Causal, texts: Iterable[str]) -> Pair:
    """Make a Llama; texts begin with its first token."""
    tokenizer = _train_tokenizer(
        texts,
        architecture.vocabulary,
        {"pad_token": PAD, "bos_token": BOS, "eos_token": EOS},
        f"{BOS} $A",
        model_max_length=architecture.positions,
        padding_side="left",  # a decoder goes on from its last token
    )
    tokenizer.chat_template = _CHAT if architecture.chat_template else None
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=architecture.hidden_size,
        intermediate_size=_gated_size(architecture.hidden_size),
        num_hidden_layers=architecture.layers,
        num_attention_heads=architecture.heads,
        max_position_embeddings=architecture.positions,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config), tokenizer


def _t5(architecture: T5, texts: Iterable[str]) -> Pair:
    """Make a T5 of version 1.1; texts end with its last token, answers begin with padding."""
    tokenizer = _train_tokenizer(
        texts,
        architecture.vocabulary,
        {"pad_token": PAD, "eos_token": EOS},
        f"$A {EOS}",
        model_max_length=_T5_TOKENS,
    )
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=architecture.hidden_size,
        d_kv=architecture.hidden_size // architecture.heads,
        d_ff=_gated_size(architecture.hidden_size),
        num_layers=architecture.layers,
        num_heads=architecture.heads,
        feed_forward_proj="gated-gelu",
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,  # type: ignore[call-arg]
    )
    return T5ForConditionalGeneration(config), tokenizer


def _encoder_decoder(architecture: EncoderDecoder, texts: Iterable[str]) -> Pair:
    """Join an encoder with a decoder made of its layers (Rothe et al., 2020)."""
    source = resolve_model(architecture.encoder)
    model, words, _ = load_tower(read_layout(source)[-1], EncoderOptions())  # that of passages
    if not isinstance(model, BertModel):
        raise ModelError(
            f"architecture.encoder: {architecture.encoder} is a {type(model).__name__}; a decoder "
            "can be made of a BERT's layers (config.json: model_type bert)"
        )
    model.name_or_path = model.config._name_or_path = ""  # the same wherever it is made
    decoder = _decoder_of(model, architecture)
    tokenizer = _rejoining(words, positions(model))
    _expect(decoder, tokenizer, texts)
    config = EncoderDecoderConfig.from_encoder_decoder_configs(
        model.config,
        decoder.config,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.bos_token_id,
    )
    joined = EncoderDecoderModel(config=config, encoder=model, decoder=decoder)
    joined.generation_config = GenerationConfig.from_model_config(config)
    return joined, tokenizer


def _decoder_of(encoder: BertModel, architecture: EncoderDecoder) -> BertLMHeadModel:
    """Return a decoder with an encoder's embeddings and some or all of its layers.

    Cross-attention begins as a copy of the layer's self-attention, which reads such states.
    """
    layers = encoder.config.num_hidden_layers
    n = architecture.decoder_layers or layers
    if n > layers:
        raise ModelError(
            f"architecture.decoder_layers: {n} is more than the {layers} layers of "
            f"{architecture.encoder}"
        )
    values = {**encoder.config.to_dict(), "architectures": None, "num_hidden_layers": n}
    values |= {"is_decoder": True, "add_cross_attention": True, "use_cache": True}
    decoder = BertLMHeadModel(BertConfig(**values))
    decoder.bert.embeddings.load_state_dict(encoder.embeddings.state_dict())
    for layer, chosen in zip(decoder.bert.encoder.layer, _spread(layers, n), strict=True):
        state = encoder.encoder.layer[chosen].state_dict()
        crossing = {
            f"cross{name}": value for name, value in state.items() if name.startswith("attention.")
        }
        layer.load_state_dict({**state, **crossing})
    _open(decoder.cls.predictions.transform)
    return decoder


def _spread(layers: int, n: int) -> list[int]:
    """Return n of so many layers, evenly apart, the first and the last among them."""
    return [round(i * (layers - 1) / max(n - 1, 1)) for i in range(n)]


@torch.no_grad()
def _open(transform: nn.Module) -> None:
    """Let a prediction head pass on the states that it gets, but for their scale.

    Encoders come without one. Random weights would have to be learnt before any word is right; an
    identity of size 1 would lose what is negative to the activation.
    """
    dense: nn.Linear = transform.dense  # type: ignore[assignment]
    nn.init.eye_(dense.weight).mul_(_SMALL)
    nn.init.zeros_(dense.bias)


@torch.no_grad()
def _expect(
    decoder: BertLMHeadModel, tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]
) -> None:
    """Set a decoder's bias to what it should say where it knows no more: frequent tokens.

    It is log(p V), p a token's share of the texts and their ends; a tenth of all is shared equally,
    so that what does not occur can still be said.
    """
    counts = torch.zeros(decoder.config.vocab_size)
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        said = torch.tensor([*ids, tokenizer.eos_token_id])
        counts += torch.bincount(said, minlength=len(counts))
    shares = 0.9 * counts / counts.sum().clamp(min=1) + 0.1 / len(counts)
    decoder.cls.predictions.bias.copy_((shares * len(counts)).log())


def _gated_size(hidden_size: int) -> int:
    """Return the width of a gated feed-forward layer: 8/3 of the states', in steps of 64.

    Three matrices of it cost what two of four times the width do (Shazeer, 2020).
    """
    return -(-8 * hidden_size // (3 * 64)) * 64


def _train_tokenizer(
    texts: Iterable[str],
    vocabulary: int,
    special: Mapping[str, str],
    template: str,
    **options: object,
) -> PreTrainedTokenizerBase:
    """Train byte-level pairs (BPE) on texts: every text is a sequence of them, and comes back.

    special: the tokens with the first numbers, by what they are
    template: what a text becomes, e.g. `$A </s>`
    """
    pairs = Tokenizer(models.BPE())
    pairs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pairs.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=list(special.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    pairs.train_from_iterator(texts, trainer)
    numbered = [(token, i) for i, token in enumerate(special.values())]
    pairs.post_processor = processors.TemplateProcessing(single=template, special_tokens=numbered)
    return _wrapped(pairs, **special, **options)


def _rejoining(words: PreTrainedTokenizerBase, limit: int) -> PreTrainedTokenizerBase:
    """Return a BERT's tokenizer that generates: its tokens, with texts put together again.

    Its own decoding puts spaces around all punctuation: `69 , 197`, `well - known`.

    limit: tokens that the model has positions for
    """
    backend = Tokenizer.from_str(words.backend_tokenizer.to_str())
    backend.no_padding()
    backend.no_truncation()
    backend.decoder = decoders.Sequence(
        [
            decoders.WordPiece(prefix="##", cleanup=False),
            decoders.Fuse(),
            decoders.Replace(Regex(_NO_SPACE), ""),
        ]
    )
    names = {f"{n}_token": getattr(words, f"{n}_token") for n in ("pad", "unk", "cls", "sep")}
    names |= {"bos_token": words.cls_token, "eos_token": words.sep_token}
    return _wrapped(backend, **names, model_max_length=limit)


def _wrapped(backend: Tokenizer, **options: object) -> PreTrainedTokenizerBase:
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        **options,
    )
