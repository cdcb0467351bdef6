"""Every architecture gives the vectors that sentence-transformers and transformers alone give."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast, T5EncoderModel

from ragkit.config.blocks import EncoderOptions
from ragkit.errors import ModelError
from ragkit.models.encoder import Encoder
from ragkit.models.packing import IMPLEMENTATION

TEXTS = [
    "which fuse is in the gateway",
    "a relay",
    "the pump stops after thirty minutes without power and the red light opens the valve",
    "Battery: 12 volts!",
    "x",
    "the sensor can not update the firmware " * 30,
]
SMALL = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64,
    "initializer_range": 0.2, "max_position_embeddings": 130, "pad_token_id": 0,
}  # fmt: skip
DECODER = SMALL | {"num_key_value_heads": 2, "eos_token_id": 2, "bos_token_id": 1}
ROLLING = ["sliding_attention", "full_attention", "sliding_attention"]
# name: (class of the model, arguments of its configuration, whether it is packed)
ARCHITECTURES: dict[str, tuple[str, dict[str, Any], bool]] = {
    "bert": ("Bert", SMALL, True),
    "roberta": ("Roberta", SMALL | {"pad_token_id": 1}, True),
    "xlm-roberta": ("XLMRoberta", SMALL | {"pad_token_id": 1}, True),
    "mpnet": ("MPNet", SMALL | {"pad_token_id": 1}, False),
    "electra": ("Electra", SMALL | {"embedding_size": 16}, False),
    "distilbert": (
        "DistilBert",
        {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 130,
         "initializer_range": 0.2},
        False,
    ),
    "modernbert": (
        "ModernBert",
        SMALL | {"local_attention": 8, "layer_types": ROLLING, "initializer_cutoff_factor": 9.0},
        True,
    ),
    "llama": ("Llama", DECODER, True),
    "mistral": ("Mistral", DECODER | {"sliding_window": 5, "head_dim": 8}, True),
    "qwen2": (
        "Qwen2",
        DECODER | {"use_sliding_window": True, "sliding_window": 6, "layer_types": ROLLING},
        True,
    ),
    "qwen3": ("Qwen3", DECODER | {"head_dim": 8}, True),
    "gemma3, both ways": (
        "Gemma3Text",
        DECODER | {"head_dim": 8, "sliding_window": 6, "layer_types": ROLLING,
                   "use_bidirectional_attention": True},
        False,
    ),
}  # fmt: skip
DECODERS = ("llama", "mistral", "qwen2", "qwen3")


def byte_tokenizer(eos: bool) -> PreTrainedTokenizerFast:
    """Return a tokenizer of bytes, which can end texts as Qwen3-Embedding's does."""
    tokens = ["<pad>", "<s>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if eos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 2)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", eos_token="</s>",
        bos_token="<s>", model_max_length=128,
    )  # fmt: skip


@pytest.fixture
def folder_of(tiny_encoder: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that saves a tiny random model of an architecture and says where."""

    def save(name: str, eos: bool = True) -> Path:
        kind, arguments, _ = ARCHITECTURES[name]
        is_decoder = name in DECODERS or kind == "Gemma3Text"
        tokenizer = byte_tokenizer(eos) if is_decoder else AutoTokenizer.from_pretrained(
            tiny_encoder
        )  # fmt: skip
        prefix = kind.removesuffix("Text")
        config = getattr(transformers, f"{kind}Config")(vocab_size=300, **arguments)
        suffix = "ForCausalLM" if name in DECODERS else "Model"
        name_of_class = f"{kind if kind == 'Gemma3Text' else prefix}{suffix}"
        torch.manual_seed(0)
        getattr(transformers, name_of_class)(config).save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
        return tmp_path / "model"

    return save


def reference(module: ModuleType, folder: Path, pooling: str) -> Any:
    """Return sentence-transformers' model of a plain folder."""
    kinds = module.sentence_transformer.modules
    transformer = kinds.Transformer(str(folder))
    pool = kinds.Pooling(transformer.get_embedding_dimension(), pooling)
    prompts = {"query": "which ", "document": "the "}
    return module.SentenceTransformer(
        modules=[transformer, pool, kinds.Normalize()], prompts=prompts, device="cpu"
    )


def vectors_of(encoder: Encoder, texts: list[str], kind: str = "passage") -> np.ndarray:
    with torch.inference_mode():
        return np.asarray(encoder(encoder.tokenize(texts, kind)))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_vectors_equal_those_of_sentence_transformers_in_both_directions(
    name: str, folder_of: Callable[..., Path], sentence_transformers: ModuleType, tmp_path: Path
) -> None:
    pooling = "lasttoken" if name in DECODERS else "mean"
    model = reference(sentence_transformers, folder_of(name), pooling)
    model.save(str(tmp_path / "theirs"))
    encoder = Encoder.load(str(tmp_path / "theirs"))
    assert (encoder.model.config._attn_implementation == IMPLEMENTATION) == ARCHITECTURES[name][2]
    encoder.save(tmp_path / "ours")
    again = sentence_transformers.SentenceTransformer(str(tmp_path / "ours"), device="cpu")
    for kind in ("query", "passage"):
        found = vectors_of(encoder, TEXTS, kind)
        assert np.ptp(found @ found.T) > 0.01  # the texts are told apart
        for theirs in (model, again):
            encode = theirs.encode_query if kind == "query" else theirs.encode_document
            expected = encode(TEXTS, show_progress_bar=False)
            assert np.abs(found - expected).max() < 1e-5


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_vectors_equal_those_of_transformers_one_text_at_a_time(
    name: str, pooling: str, folder_of: Callable[..., Path]
) -> None:
    folder = folder_of(name)
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    pool = {"mean": lambda s: s.mean(dim=0), "cls": lambda s: s[0], "last": lambda s: s[-1]}
    options = EncoderOptions(pooling=pooling, normalize=False, max_length=128)
    found = vectors_of(Encoder.load(str(folder), options), TEXTS)
    for row, text in zip(found, TEXTS, strict=True):
        ids = tokenizer(text, truncation=True, max_length=128)["input_ids"]
        with torch.no_grad():
            states = model.eval()(torch.tensor([ids])).last_hidden_state[0]
        assert np.abs(row - pool[pooling](states).numpy()).max() < 1e-5


@pytest.mark.parametrize("name", [name for name, (*_, packed) in ARCHITECTURES.items() if packed])
def test_packed_gradients_equal_padded_ones(name: str, folder_of: Callable[..., Path]) -> None:
    folder = folder_of(name)
    gradients = []
    for is_packed in (True, False):
        encoder = Encoder.load(str(folder), EncoderOptions(normalize=False))
        if not is_packed:
            encoder.position_offset = None
            encoder.model.set_attn_implementation("eager")
        encoder(encoder.tokenize(TEXTS[:4], "query")).square().sum().backward()
        gradients.append({n: p.grad for n, p in encoder.named_parameters() if p.grad is not None})
    packed, padded = gradients
    assert packed.keys() == padded.keys() and len(packed) >= 20
    for key, expected in padded.items():
        torch.testing.assert_close(packed[key], expected, rtol=1e-3, atol=1e-4, msg=key)


def test_a_decoder_that_looks_both_ways_is_padded(
    folder_of: Callable[..., Path], sentence_transformers: ModuleType
) -> None:
    folder = folder_of("qwen3")
    config = transformers.AutoConfig.from_pretrained(folder)
    config.is_causal = False
    config.save_pretrained(folder)
    encoder = Encoder.load(str(folder))
    assert encoder.position_offset is None and encoder.settings.pooling == "mean"
    expected = reference(sentence_transformers, folder, "mean").encode(TEXTS)
    assert np.abs(vectors_of(encoder, TEXTS) - expected).max() < 1e-5


def test_a_language_model_without_modules_is_pooled_at_its_last_token(
    folder_of: Callable[..., Path], sentence_transformers: ModuleType
) -> None:
    folder = folder_of("llama")
    encoder = Encoder.load(str(folder), EncoderOptions(normalize=False))
    assert encoder.settings.pooling == "last"
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    assert np.abs(vectors_of(encoder, TEXTS) - model.encode(TEXTS)).max() < 1e-5


@pytest.mark.parametrize("name", DECODERS)
def test_an_end_of_sequence_token_is_appended_where_asked_and_saved_with_the_tokenizer(
    name: str, folder_of: Callable[..., Path], sentence_transformers: ModuleType, tmp_path: Path
) -> None:
    folder = str(folder_of(name, eos=False))
    options = EncoderOptions(append_eos=True, max_length=20)
    plain, encoder = Encoder.load(folder), Encoder.load(folder, options)
    short, long = encoder.tokenize([TEXTS[1], TEXTS[2]], "passage")
    assert short == [*plain.tokenize([TEXTS[1]], "passage")[0], 2]
    assert long == [*plain.tokenize([TEXTS[2]], "passage")[0][:19], 2]
    encoder.save(tmp_path / "ours")
    saved = Encoder.load(str(tmp_path / "ours"), options)
    assert saved.tokenize(TEXTS, "query") == encoder.tokenize(TEXTS, "query")  # and not twice
    model = sentence_transformers.SentenceTransformer(str(tmp_path / "ours"), device="cpu")
    assert np.abs(vectors_of(saved, TEXTS) - model.encode_document(TEXTS)).max() < 1e-5
    assert encoder.fingerprint() == saved.fingerprint() != plain.fingerprint()


def test_a_tokenizer_without_an_end_of_sequence_token_is_refused(tiny_encoder: Path) -> None:
    with pytest.raises(ModelError, match="append_eos"):
        Encoder.load(str(tiny_encoder), EncoderOptions(append_eos=True))


def test_a_text_without_tokens_is_one_token_and_does_not_disturb_others(
    folder_of: Callable[..., Path],
) -> None:
    encoder = Encoder.load(str(folder_of("qwen3", eos=False)))
    assert encoder.tokenize(["", "x"], "query")[0] == [2]
    found = vectors_of(encoder, ["", "x", "a relay"])
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[1:], vectors_of(encoder, ["x", "a relay"]), atol=1e-6)


def test_of_t5_the_encoder_alone_is_taken(
    tiny_encoder: Path, tmp_path: Path, sentence_transformers: ModuleType
) -> None:
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=300, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4
    )
    config.decoder_start_token_id = 0
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path / "t5")
    AutoTokenizer.from_pretrained(tiny_encoder).save_pretrained(tmp_path / "t5")
    encoder = Encoder.load(str(tmp_path / "t5"))
    assert isinstance(encoder.model, T5EncoderModel)
    expected = reference(sentence_transformers, tmp_path / "t5", "mean").encode(TEXTS)
    assert np.abs(vectors_of(encoder, TEXTS) - expected).max() < 1e-5
    encoder.save(tmp_path / "ours")
    np.testing.assert_array_equal(
        vectors_of(Encoder.load(str(tmp_path / "ours")), TEXTS), vectors_of(encoder, TEXTS)
    )


def test_another_model_with_encoder_and_decoder_is_refused(
    tiny_encoder: Path, tmp_path: Path
) -> None:
    config = transformers.BartConfig(
        vocab_size=300, d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=16,
        decoder_ffn_dim=16, encoder_attention_heads=2, decoder_attention_heads=2,
    )  # fmt: skip
    transformers.BartModel(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_encoder).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="bart has an encoder and a decoder"):
        Encoder.load(str(tmp_path))
