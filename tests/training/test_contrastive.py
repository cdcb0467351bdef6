"""The objective on an encoder: loss and gradients equal sentence-transformers' losses, cached too.

The batches are what those losses can express: a passage of its own for each question, the same
number of negatives. What they cannot is held to values worked out from the vectors.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from ragkit.config.blocks import EncoderOptions
from ragkit.config.training import Contrastive
from ragkit.data.schema import Example, known_positives
from ragkit.errors import ModelError
from ragkit.models.encoder import Encoder
from ragkit.training.caching import encode_in_chunks
from ragkit.training.collate import Pair, PairCollator
from ragkit.training.contrastive import ContrastiveModel

QUESTIONS = ["which gateway voltage", "reset the alarm", "is the battery red", "pump"]
PASSAGES = {
    "p0": "twelve volts", "p1": "hold the button ten seconds", "p2": "green light",
    "p3": "thirty amps and more", "n0": "the relay opens", "n1": "valve", "n2": "log of users",
    "n3": "power supply", "m0": "backup takes days", "m1": "password", "m2": "the fuse",
    "m3": "port",
}  # fmt: skip
SCORES = [{f"p{i}": 3.0 + i, f"n{i}": 1.0 - i, f"m{i}": 0.3 * i} for i in range(4)]
EXAMPLES = [
    Example(f"q{i}", q, (), (f"p{i}",), (f"n{i}", f"m{i}"), scores=SCORES[i])
    for i, q in enumerate(QUESTIONS)
]
COLUMNS = [QUESTIONS, *([PASSAGES[f"{letter}{i}"] for i in range(4)] for letter in "pnm")]
TEMPERATURE = 0.1


@pytest.fixture
def encoder(tiny_encoder: Path) -> Encoder:
    return Encoder.load(str(tiny_encoder))


@pytest.fixture
def guide(tiny_encoder: Path) -> Encoder:
    """Another encoder: the same with its weights shaken."""
    other = Encoder.load(str(tiny_encoder))
    torch.manual_seed(5)
    with torch.no_grad():
        for weights in other.parameters():
            weights.add_(torch.randn_like(weights) * weights.std().nan_to_num() * 0.7)
    return other


@pytest.fixture
def library(tmp_path: Path) -> Callable[[Encoder], Any]:
    """Return a function that loads an encoder with sentence-transformers."""
    import sentence_transformers

    def load(encoder: Encoder) -> Any:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        encoder.save(folder)
        return sentence_transformers.SentenceTransformer(str(folder), device="cpu").eval()

    return load


def batch(
    encoder: Encoder,
    loss: Contrastive,
    examples: Sequence[Example] = EXAMPLES,
    guide: Encoder | None = None,
) -> dict[str, Any]:
    """Return the batch of all examples, each with its first positive and all its negatives."""
    questions, texts = [e.question for e in examples], list(PASSAGES.values())
    queries, passages = encoder.tokenize(questions, "query"), encoder.tokenize(texts, "passage")
    vectors = None
    if guide:
        with torch.no_grad():
            vectors = (guide(queries).numpy(), guide(passages).numpy())
    collate = PairCollator(
        dict(zip((e.id for e in examples), queries, strict=True)),
        dict(zip(PASSAGES, passages, strict=True)),
        known_positives(examples),
        loss,
        guide=vectors,
    )
    return collate([Pair(e, e.positive_ids[0], e.negative_ids) for e in examples])


def ours(
    encoder: Encoder,
    options: Mapping[str, Any],
    examples: Sequence[Example] = EXAMPLES,
    guide: Encoder | None = None,
) -> tuple[float, dict[str, Tensor]]:
    """Return the loss and the gradients of the transformer's parameters."""
    loss = Contrastive(**{"temperature": TEMPERATURE, **options})
    return measured(
        lambda: ContrastiveModel(encoder, loss)(**batch(encoder, loss, examples, guide))["loss"],
        encoder.model,
    )


def measured(compute: Callable[[], Tensor], model: nn.Module) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad()
    loss = compute()
    loss.backward()
    return loss.item(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def theirs(model: Any, loss: Any, labels: Tensor | None = None) -> tuple[float, dict[str, Tensor]]:
    """Return loss and gradients of one of sentence-transformers' losses on all columns."""
    columns = [model.preprocess(texts) for texts in loss_columns(loss)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return measured(lambda: loss(columns, labels), model[0].auto_model)


def loss_columns(loss: Any) -> list[list[str]]:
    return COLUMNS[:3] if type(loss).__name__ == "GISTEmbedLoss" else COLUMNS


def assert_equal(
    found: tuple[float, dict[str, Tensor]], expected: tuple[float, dict[str, Tensor]]
) -> None:
    assert found[0] == pytest.approx(expected[0], abs=1e-5)
    assert found[1].keys() == expected[1].keys()
    assert sum(g.square().sum() for g in expected[1].values()) > 1e-4
    for name, gradient in expected[1].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-5, atol=1e-5, msg=name)


CACHED = {"cached": True, "chunk_tokens": 12}


@pytest.mark.parametrize("cached", [{}, CACHED], ids=["plain", "cached"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_it_equals_multiple_negatives_ranking_loss(
    symmetric: bool, cached: dict[str, Any], encoder: Encoder, library: Callable[[Encoder], Any]
) -> None:
    from sentence_transformers.sentence_transformer import losses

    model = library(encoder)
    options: dict[str, Any] = {"scale": 1 / TEMPERATURE}
    if symmetric:
        options |= {"directions": ("query_to_doc", "doc_to_query"),
                    "partition_mode": "per_direction"}  # fmt: skip
    for kind in (losses.MultipleNegativesRankingLoss, losses.CachedMultipleNegativesRankingLoss):
        expected = theirs(model, kind(model, **options))
        assert_equal(ours(encoder, {"symmetric": 0.5 * symmetric, **cached}), expected)


@pytest.mark.parametrize("margin", [0.0, 0.01])
def test_with_a_guide_it_equals_gist_embed_loss(
    margin: float, encoder: Encoder, guide: Encoder, library: Callable[[Encoder], Any]
) -> None:
    from sentence_transformers.sentence_transformer import losses

    model = library(encoder)
    loss = losses.GISTEmbedLoss(
        model, library(guide), temperature=TEMPERATURE, margin=margin,
        contrast_anchors=False, contrast_positives=False,
    )  # fmt: skip
    one_negative = [replace(e, negative_ids=e.negative_ids[:1]) for e in EXAMPLES]
    options = {"guide": {"model": "embedded", "margin": -margin}}
    found = ours(encoder, options, one_negative, guide)
    assert_equal(found, theirs(model, loss))
    assert found[0] < ours(encoder, {}, one_negative)[0] - 1e-3  # something was left out


@pytest.mark.parametrize("cached", [{}, CACHED], ids=["plain", "cached"])
def test_it_equals_matryoshka_loss(
    cached: dict[str, Any], encoder: Encoder, library: Callable[[Encoder], Any]
) -> None:
    from sentence_transformers.sentence_transformer import losses

    model = library(encoder)
    inner = losses.MultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE)
    loss = losses.MatryoshkaLoss(model, inner, [32, 16, 4], [1.0, 0.5, 0.25])
    options = {"matryoshka": [32, 16, 4], "matryoshka_weights": [1.0, 0.5, 0.25]}
    assert_equal(ours(encoder, {**options, **cached}), theirs(model, loss))


def test_vectors_that_are_not_of_unit_length_are_cut_and_left_so(encoder: Encoder) -> None:
    encoder.settings = replace(encoder.settings, normalize=False)
    options = {"matryoshka": [8], "temperature": 5.0}
    loss = Contrastive(**options)
    made = batch(encoder, loss)
    vectors = encoder(made["token_ids"])[:, :8]
    logits = vectors[:4] @ vectors[4:].T / 5.0
    expected = -(logits[:, :4].diag() - logits.logsumexp(dim=1)).mean()
    assert ours(encoder, options)[0] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("cached", [{}, CACHED], ids=["plain", "cached"])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_distillation_alone_equals_margin_mse_loss(
    temperature: float, cached: dict[str, Any], encoder: Encoder, library: Callable[[Encoder], Any]
) -> None:
    from sentence_transformers.sentence_transformer import losses

    model = library(encoder)
    labels = torch.tensor([list(s.values()) for s in SCORES])
    distillation = {
        "method": "margin_mse", "contrastive_weight": 0.0, "student_temperature": 1.0,
        "teacher_temperature": temperature,
    }  # fmt: skip
    expected = theirs(model, losses.MarginMSELoss(model), labels / temperature)
    assert_equal(ours(encoder, {"distillation": distillation, **cached}), expected)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_distillation_alone_equals_distill_kl_div_loss(
    temperature: float, encoder: Encoder, library: Callable[[Encoder], Any]
) -> None:
    from sentence_transformers.sentence_transformer import losses

    model = library(encoder)
    labels = torch.tensor([list(s.values()) for s in SCORES])
    loss = losses.DistillKLDivLoss(model, student_temperature=1.0, teacher_temperature=temperature)
    distillation = {
        "contrastive_weight": 0.0, "student_temperature": 1.0, "teacher_temperature": temperature,
    }  # fmt: skip
    assert_equal(ours(encoder, {"distillation": distillation}), theirs(model, loss, labels))


def test_the_terms_are_weighted_and_added(encoder: Encoder) -> None:
    plain = ours(encoder, {})[0]
    alone = ours(encoder, {"distillation": {"contrastive_weight": 0.0}})[0]
    both = ours(encoder, {"distillation": {"contrastive_weight": 0.5, "weight": 2.0}})[0]
    assert alone > 1e-3
    assert both == pytest.approx(0.5 * plain + 2.0 * alone, rel=1e-5)
    # the encoder's temperature in the term is that of the contrastive loss unless it is set
    set_to = {"contrastive_weight": 0.0, "student_temperature": TEMPERATURE}
    assert ours(encoder, {"distillation": set_to})[0] == pytest.approx(alone, rel=1e-6)


@pytest.mark.parametrize("contexts", [1, 2, 3])
def test_docchats_share_is_one_over_one_plus_the_passages_of_a_question(
    contexts: int, encoder: Encoder
) -> None:
    examples = [replace(e, negative_ids=e.negative_ids[: contexts - 1]) for e in EXAMPLES]
    loss = Contrastive()
    made = batch(encoder, loss, examples)
    vectors = encoder(made["token_ids"])
    logits, own = vectors[:4] @ vectors[4:].T / TEMPERATURE, torch.arange(4)
    f = 1 / (1 + contexts)
    to_passages = nn.functional.cross_entropy(logits, own)
    to_queries = nn.functional.cross_entropy(logits[:, :4].T, own)
    expected = (1 - f) * to_passages + f * to_queries
    options = {"symmetric": "docchat", "n_negatives": contexts - 1}
    assert ours(encoder, options, examples)[0] == pytest.approx(expected.item(), rel=1e-5)


def test_dalms_share_is_a_half(encoder: Encoder) -> None:
    assert ours(encoder, {"symmetric": "dalm"})[0] == ours(encoder, {"symmetric": 0.5})[0]


def test_two_questions_of_one_passage_are_not_each_others_negatives(encoder: Encoder) -> None:
    a, b, c, _ = (replace(e, negative_ids=()) for e in EXAMPLES)
    b = replace(b, positive_ids=("p0",))
    loss = Contrastive(n_negatives=0)
    made = batch(encoder, loss, [a, b, c])
    assert made["passage_ids"] == ["p0", "p2"]
    vectors = encoder(made["token_ids"])
    s = (vectors[:3] @ vectors[3:].T / TEMPERATURE).tolist()

    def nll(positive: float, *others: float) -> float:
        return torch.tensor([positive, *others]).logsumexp(dim=0).item() - positive

    # each question has one negative; from p0, a does not compete with b but with c
    forward = nll(s[0][0], s[0][1]) + nll(s[1][0], s[1][1]) + nll(s[2][1], s[2][0])
    backward = nll(s[0][0], s[2][0]) + nll(s[1][0], s[2][0]) + nll(s[2][1], s[0][1], s[1][1])
    found = ours(encoder, {"symmetric": 0.25, "n_negatives": 0}, [a, b, c])[0]
    assert found == pytest.approx((0.75 * forward + 0.25 * backward) / 3, rel=1e-5)


def test_the_same_question_twice_does_not_compete_with_itself(encoder: Encoder) -> None:
    a, b = (replace(e, negative_ids=()) for e in EXAMPLES[:2])
    twin = replace(b, question=a.question)
    # each knows the other's passage as a positive: neither direction has a negative left
    assert ours(encoder, {"symmetric": 0.5, "n_negatives": 0}, [a, twin])[0] == 0


def test_an_example_whose_negatives_are_all_masked_costs_nothing(encoder: Encoder) -> None:
    loss, gradients = ours(encoder, {"false_negative_margin": -3.0})
    assert loss == 0
    assert not any(g.any() for g in gradients.values())


def test_a_question_that_is_its_own_passage_has_a_finite_loss(encoder: Encoder) -> None:
    same = replace(EXAMPLES[0], question=PASSAGES["p0"])
    loss, gradients = ours(encoder, {"symmetric": 0.5}, [same, *EXAMPLES[1:]])
    assert 0 < loss < 10
    assert all(g.isfinite().all() for g in gradients.values())


def test_false_negatives_of_either_direction_follow_the_query(encoder: Encoder) -> None:
    examples = [replace(e, negative_ids=()) for e in EXAMPLES]
    vectors = encoder(batch(encoder, Contrastive(), examples)["token_ids"])
    s = vectors[:4] @ vectors[4:].T
    false = s > s.diag()[:, None]
    assert 0 < false.sum() < 12
    logits, own = (s / TEMPERATURE).masked_fill(false, -torch.inf), torch.arange(4)
    forward = nn.functional.cross_entropy(logits, own)
    backward = nn.functional.cross_entropy(logits.T, own)
    options = {"symmetric": 0.3, "false_negative_margin": 0.0}
    expected = (0.7 * forward + 0.3 * backward).item()
    assert ours(encoder, options, examples)[0] == pytest.approx(expected, rel=1e-5)


EVERYTHING: dict[str, Any] = {
    "symmetric": 0.4, "false_negative_margin": 0.02, "guide": {"model": "embedded"},
    "matryoshka": [32, 8], "distillation": {"teacher_temperature": 2.0},
}  # fmt: skip


@pytest.mark.parametrize("chunk_tokens", [1, 12, 10_000])
def test_cached_gradients_are_those_of_one_pass(
    chunk_tokens: int, encoder: Encoder, guide: Encoder
) -> None:
    plain = ours(encoder, EVERYTHING, guide=guide)
    cached = {**EVERYTHING, "cached": True, "chunk_tokens": chunk_tokens}
    assert_equal(ours(encoder, cached, guide=guide), plain)


def chunks_of(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Return the list that each pass of the encoder will add its texts' lengths to."""
    seen: list[list[int]] = []
    inner = encoder.forward

    def spy(token_ids: Sequence[Sequence[int]], n_queries: int | None = None) -> Tensor:
        seen.append([len(ids) for ids in token_ids])
        return inner(token_ids, n_queries)

    monkeypatch.setattr(encoder, "forward", spy)
    return seen


def test_a_chunk_has_no_more_tokens_than_allowed_and_each_text_is_encoded_twice(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = chunks_of(encoder, monkeypatch)
    ours(encoder, CACHED)
    assert len(seen) > 4 and all(max(c) * len(c) <= 12 or len(c) == 1 for c in seen)
    assert sum(map(len, seen)) == 2 * (len(QUESTIONS) + len(PASSAGES))


def test_nothing_of_the_first_pass_is_kept_for_the_backward_one(encoder: Encoder) -> None:
    token_ids = encoder.tokenize(list(PASSAGES.values()), "passage")
    vectors = encode_in_chunks(encoder, token_ids, 0, 12)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t.numel()) or t, lambda t: t
    ):
        encode_in_chunks(encoder, token_ids, 0, 12)
    assert kept == []
    torch.testing.assert_close(vectors, encoder(token_ids), rtol=0, atol=1e-6)


def with_dropout(encoder: Encoder) -> Encoder:
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.3
    return encoder.train()


def test_the_second_pass_draws_the_dropout_of_the_first(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal to keeping the graphs of the same chunks, encoded in the same order."""
    with_dropout(encoder)
    found = []
    for kept in (False, True):
        if kept:
            monkeypatch.setattr("ragkit.training.contrastive.encode_in_chunks", graphs_kept)
        torch.manual_seed(3)
        found.append(ours(encoder, {"symmetric": 0.5, **CACHED}))
    assert_equal(found[0], found[1])
    torch.manual_seed(4)
    assert ours(encoder, {"symmetric": 0.5, **CACHED})[0] != pytest.approx(found[0][0], abs=1e-4)


def graphs_kept(
    encoder: Encoder, token_ids: Sequence[Sequence[int]], n_queries: int, chunk_tokens: int
) -> Tensor:
    """Encode in the same chunks as `encode_in_chunks`, with one graph over all of them."""
    from ragkit.retrieval.encode import batches

    chunks = [sorted(places) for places in batches(token_ids, chunk_tokens)]
    vectors = torch.cat([encoder([token_ids[i] for i in places]) for places in chunks])
    return vectors[torch.tensor([i for places in chunks for i in places]).argsort()]


def test_the_second_pass_leaves_the_random_numbers_as_they_are(encoder: Encoder) -> None:
    with_dropout(encoder)
    loss = Contrastive(cached=True)
    value = ContrastiveModel(encoder, loss)(**batch(encoder, loss))["loss"]
    torch.rand(1)  # somebody draws between the passes
    state = torch.get_rng_state()
    value.backward()
    assert torch.equal(torch.get_rng_state(), state)


def test_under_autocast_both_passes_run_in_the_same_precision(
    encoder: Encoder,
) -> None:
    seen: list[torch.dtype] = []
    encoder.model.encoder.layer[0].output.dense.register_forward_hook(
        lambda _module, _inputs, output: seen.append(output.dtype)
    )
    loss = Contrastive(temperature=TEMPERATURE, cached=True, chunk_tokens=10_000)
    made = batch(encoder, loss)
    with torch.autocast("cpu", torch.bfloat16):
        value = ContrastiveModel(encoder, loss)(**made)["loss"]
    value.backward()
    assert seen == [torch.bfloat16, torch.bfloat16]
    assert value.dtype == torch.float32
    assert all(p.grad.dtype == torch.float32 for p in encoder.parameters() if p.grad is not None)


def test_matryoshka_beyond_the_encoders_dimensions_is_an_error(encoder: Encoder) -> None:
    with pytest.raises(ModelError, match="matryoshka: 64 dimensions, and the encoder has 32"):
        ContrastiveModel(encoder, Contrastive(matryoshka=[64, 32]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hard_neg_ratio": 0.1, "n_negatives": 2}, "instead of n_negatives"),
        ({"distillation": {}, "n_negatives": 0}, "needs hard negatives"),
        ({"matryoshka": [8, 8]}, "names a dimension twice"),
        ({"matryoshka": [16, 8], "matryoshka_weights": [1.0]}, "1 weights for 2 dimensions"),
        ({"matryoshka_weights": [1.0]}, "1 weights for 0 dimensions"),
        ({"chunk_tokens": 512}, "goes with cached: true"),
        ({"symmetric": 1.0}, "less than 1"),
        ({"symmetric": "clip"}, "'dalm' or 'docchat'"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Contrastive(**options)


def test_the_guides_own_options_are_read() -> None:
    guide = Contrastive(guide={"model": "x", "encoder": {"max_length": 64}}).guide
    assert guide is not None and guide.encoder == EncoderOptions(max_length=64)
