"""Packed attention: the same vectors and gradients as padding, for every model that is packed."""

from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertModel,
    CamembertConfig,
    CamembertModel,
    DistilBertConfig,
    DistilBertModel,
    MPNetConfig,
    MPNetModel,
    PretrainedConfig,
    PreTrainedModel,
    RobertaConfig,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from ragkit.models import packing, products
from ragkit.models.encoder import Encoder, EncoderSettings
from ragkit.models.packing import neighbours, packed_attention, position_offset, positions

SMALL = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
    "initializer_range": 0.2,  # so that positions and attention matter
}
PACKABLE = {
    "bert": (BertModel, BertConfig(**SMALL)),
    "roberta": (RobertaModel, RobertaConfig(**SMALL, pad_token_id=1)),
    "xlm-roberta": (XLMRobertaModel, XLMRobertaConfig(**SMALL, pad_token_id=1)),
    "camembert": (CamembertModel, CamembertConfig(**SMALL, pad_token_id=1)),
    "roberta with another padding id": (RobertaModel, RobertaConfig(**SMALL, pad_token_id=4)),
}
LENGTHS = [7, 2, 30, 7, 1, 12, 30, 3]


def build(name: str) -> PreTrainedModel:
    """Return a random model in evaluation mode, the same one each time."""
    torch.manual_seed(0)
    kind, config = PACKABLE[name]
    return kind(deepcopy(config)).eval()  # it holds the attention implementation


def texts(lengths: list[int]) -> list[list[int]]:
    """Return token ids without padding among them."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(5, 50, (n,), generator=generator).tolist() for n in lengths]


def packed_and_padded(name: str, pooling: str = "mean") -> tuple[Encoder, Encoder]:
    """Return two encoders of equal weights, the second of which pads."""
    settings = EncoderSettings(pooling=pooling, normalize=False)
    tokenizer = SimpleNamespace(pad_token_id=PACKABLE[name][1].pad_token_id)
    packed, padded = (Encoder(build(name), tokenizer, settings) for _ in range(2))
    padded.position_offset = None
    padded.model.set_attn_implementation("eager")
    return packed, padded


def one_by_one(name: str, token_ids: list[list[int]]) -> Tensor:
    """Return mean-pooled vectors by transformers alone, without batches, padding or packing."""
    model = build(name)
    with torch.no_grad():
        states = [model(input_ids=torch.tensor([ids])).last_hidden_state[0] for ids in token_ids]
    return torch.stack([s.mean(dim=0) for s in states])


@pytest.mark.parametrize("name", PACKABLE)
def test_packed_vectors_equal_those_of_transformers_one_text_at_a_time(name: str) -> None:
    token_ids = texts(LENGTHS)
    packed, _ = packed_and_padded(name)
    with torch.no_grad():
        vectors = packed(token_ids)
    torch.testing.assert_close(vectors, one_by_one(name, token_ids), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["bert", "roberta", "xlm-roberta"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_packed_vectors_equal_padded_ones_under_every_pooling(name: str, pooling: str) -> None:
    packed, padded = packed_and_padded(name, pooling)
    with torch.no_grad():
        torch.testing.assert_close(
            packed(texts(LENGTHS)), padded(texts(LENGTHS)), rtol=0, atol=1e-5
        )


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5, 6, 7], [4, 2, 0, 6, 1, 7, 5, 3], [3, 3, 0]])
def test_vectors_come_in_the_order_given_whatever_it_is(order: list[int]) -> None:
    token_ids = texts(LENGTHS)
    expected = one_by_one("bert", token_ids)[order]
    for encoder in packed_and_padded("bert"):
        with torch.no_grad():
            vectors = encoder([token_ids[i] for i in order])
        torch.testing.assert_close(vectors, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["bert", "roberta", "xlm-roberta"])
def test_packed_gradients_equal_padded_ones(name: str) -> None:
    weights = torch.randn(len(LENGTHS), 32, generator=torch.Generator().manual_seed(2))
    gradients = []
    for encoder in packed_and_padded(name):
        (encoder(texts(LENGTHS)) * weights).sum().backward()
        gradients.append({n: p.grad for n, p in encoder.named_parameters() if p.grad is not None})
    packed, padded = gradients
    assert packed.keys() == padded.keys() and len(packed) > 30
    for key, expected in padded.items():
        torch.testing.assert_close(packed[key], expected, rtol=1e-4, atol=1e-5, msg=key)


def test_a_text_does_not_see_its_neighbours() -> None:
    encoder, _ = packed_and_padded("bert")
    first, second, other = texts([9, 9, 9])
    with torch.no_grad():
        torch.testing.assert_close(encoder([first, second])[0], encoder([first, other])[0])
        assert not torch.allclose(encoder([first, second])[1], encoder([first, other])[1])


def test_packed_attention_reaches_each_group_of_equal_lengths() -> None:
    lengths = [2, 2, 3, 1]
    generator = torch.Generator().manual_seed(3)
    query, key, value = (torch.randn(1, 2, sum(lengths), 4, generator=generator) for _ in range(3))
    owner = torch.repeat_interleave(torch.arange(4), torch.tensor(lengths))
    scores = query @ key.transpose(-1, -2) * 0.7
    scores = scores.masked_fill(owner[:, None] != owner[None, :], -torch.inf)
    expected = (scores.softmax(dim=-1) @ value).transpose(1, 2)
    output, _ = packed_attention(
        torch.nn.Module(), query, key, value, None, 0.7, packed_lengths=lengths
    )
    assert output.shape == (1, 8, 2, 4)
    torch.testing.assert_close(output, expected)


@pytest.mark.parametrize(
    ("near", "expected"),
    [(0, [[3, 3], [5], [3], [9]]), (2, [[3, 3, 5, 3], [9]]), (6, [[3, 3, 5, 3, 9]])],
)
def test_neighbours_differ_from_their_first_by_little(near: int, expected: list[list[int]]) -> None:
    assert list(neighbours([3, 3, 5, 3, 9], near)) == expected
    assert list(neighbours([], near)) == []


def test_neighbours_have_no_more_weights_together_than_fit_a_cache() -> None:
    assert list(neighbours([2, 2, 2, 3, 9, 9], 1, 12)) == [[2, 2, 2], [3], [9], [9]]


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("heads", [1, 2])
def test_texts_of_near_lengths_attend_together_as_they_do_alone(
    gradients: bool, causal: bool, window: int | None, heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = [2, 4, 4, 7, 5, 30]
    module = torch.nn.Module()
    module.is_causal = causal
    generator = torch.Generator().manual_seed(3)
    query, key, value = (
        torch.randn(1, n, sum(lengths), 4, generator=generator).requires_grad_(gradients)
        for n in (2, heads, heads)
    )

    def attend(near: int) -> list[Tensor]:
        monkeypatch.setattr(packing, "_NEAR", near)
        out, _ = packed_attention(
            module, query, key, value, None, packed_lengths=lengths, sliding_window=window
        )
        if not gradients:
            return [out]
        upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(4))
        return [out, *torch.autograd.grad(out, (query, key, value), upstream)]

    for together, alone in zip(attend(16), attend(0), strict=True):
        torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("near", [0, 16])
def test_a_position_bias_is_added_to_the_scores_of_each_text(
    near: int, causal: bool, gradients: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "_NEAR", near)
    lengths = [2, 4, 4, 7, 30]
    module = torch.nn.Module()
    module.is_causal = causal
    generator = torch.Generator().manual_seed(3)
    tensors = [torch.randn(1, 2, 47, 4, generator=generator) for _ in range(3)]
    # larger than the longest text: what it has beyond is of no effect
    tensors.append(torch.randn(1, 2, 31, 31, generator=generator))
    inputs = [t.requires_grad_(gradients) for t in tensors]
    query, key, value, bias = inputs
    out, _ = packed_attention(
        module, query, key, value, None, 0.7, packed_lengths=lengths, position_bias=bias
    )
    alone = []
    for start, n in zip(torch.tensor([0, *lengths]).cumsum(0), lengths, strict=False):
        q, k, v = (t[:, :, start : start + n] for t in (query, key, value))
        scores = q @ k.transpose(-1, -2) * 0.7 + bias[..., :n, :n]
        if causal:
            scores = scores.masked_fill(~torch.ones(n, n, dtype=torch.bool).tril(), -torch.inf)
        alone.append((scores.softmax(-1) @ v).transpose(1, 2))
    expected = torch.cat(alone, dim=1)
    torch.testing.assert_close(out, expected)
    if gradients:
        upstream = torch.randn(out.shape, generator=generator)
        found, wanted = (torch.autograd.grad(t, inputs, upstream) for t in (out, expected))
        for ours, theirs in zip(found, wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("offset", "expected"), [(0, [0, 1, 0, 1, 2]), (2, [2, 3, 2, 3, 4])])
def test_positions_begin_anew_with_each_text(offset: int, expected: list[int]) -> None:
    assert positions([2, 3], offset).tolist() == expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (BertConfig(), 0),
        (RobertaConfig(pad_token_id=1), 2),
        (XLMRobertaConfig(pad_token_id=1), 2),
        (CamembertConfig(pad_token_id=1), 2),
        (MPNetConfig(), None),
    ],
)
def test_the_first_position_follows_the_architecture(
    config: PretrainedConfig, expected: int | None
) -> None:
    assert position_offset(config) == expected


def test_a_bert_with_relative_positions_is_not_packed() -> None:
    config = BertConfig()
    config.position_embedding_type = "relative_key"
    assert position_offset(config) is None


PADDED = {
    "mpnet": (MPNetModel, MPNetConfig(**SMALL, pad_token_id=1)),
    "distilbert": (
        DistilBertModel,
        DistilBertConfig(
            vocab_size=50, dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=40,
            initializer_range=0.2,
        ),
    ),
}  # fmt: skip


def padded_and_single(name: str, pooling: str) -> tuple[Encoder, Tensor]:
    """Return an encoder, and its vectors of LENGTHS by transformers alone, one text at a time."""

    def model() -> PreTrainedModel:
        torch.manual_seed(0)
        kind, config = PADDED[name]
        return kind(deepcopy(config)).eval()

    tokenizer = SimpleNamespace(pad_token_id=PADDED[name][1].pad_token_id)
    with torch.no_grad():
        states = [
            model()(input_ids=torch.tensor([ids])).last_hidden_state[0] for ids in texts(LENGTHS)
        ]
    single = torch.stack([s.mean(dim=0) if pooling == "mean" else s[-1] for s in states])
    return Encoder(model(), tokenizer, EncoderSettings(pooling, normalize=False)), single


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("name", PADDED)
def test_a_model_that_cannot_be_packed_is_padded_and_equals_transformers(
    name: str, pooling: str
) -> None:
    encoder, expected = padded_and_single(name, pooling)
    assert encoder.position_offset is None
    with torch.no_grad():
        torch.testing.assert_close(encoder(texts(LENGTHS)), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", [*PADDED, *PACKABLE])
def test_bf16_products_and_attention_stay_near_fp32_in_every_architecture(name: str) -> None:
    encoder, expected = (
        padded_and_single(name, "mean")
        if name in PADDED
        else (packed_and_padded(name)[0], one_by_one(name, texts(LENGTHS)))
    )
    with torch.inference_mode(), products.bf16(torch.device("cpu"))():
        vectors = encoder(texts(LENGTHS))
    assert vectors.dtype == torch.float32
    assert torch.cosine_similarity(vectors, expected).min() > 0.999
    assert not torch.equal(vectors, expected)


@pytest.mark.parametrize("scaling", [None, 0.7])
def test_attention_in_bf16_or_with_gradients_is_that_of_the_fused_kernel(
    scaling: float | None,
) -> None:
    generator = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(1, 2, 8, 4, generator=generator) for _ in range(3))

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        lengths = [2, 2, 3, 1]
        module = torch.nn.Module()
        return packed_attention(module, q, k, v, None, scaling, packed_lengths=lengths)[0]

    expected = attend(q, k, v)
    torch.testing.assert_close(attend(q.clone().requires_grad_(), k, v), expected)
    halves = attend(q.bfloat16(), k.bfloat16(), v.bfloat16())
    torch.testing.assert_close(halves.float(), expected, rtol=0, atol=0.03)


def test_dropout_on_attention_keeps_its_mean_and_is_not_the_same_twice() -> None:
    q = torch.zeros(1, 2, 400, 4).requires_grad_()  # every token attends to all alike
    v = torch.ones(1, 2, 400, 4)
    torch.manual_seed(0)
    one, two = (
        packed_attention(torch.nn.Module(), q, q, v, None, None, 0.5, packed_lengths=[400])[0]
        for _ in range(2)
    )
    assert not torch.equal(one, two)
    assert abs(one.detach().mean().item() - 1) < 0.02
