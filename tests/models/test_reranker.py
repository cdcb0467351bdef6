"""Cross-encoders: raw logits, equal to the library's, whatever the batches; and what is refused."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import (
    AutoTokenizer,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

from ragkit.config.blocks import Reranker as Options
from ragkit.data.schema import Conversation
from ragkit.errors import ModelError
from ragkit.models.reranker import Reranker

PAIRS = [
    ("which fuse", "the gateway holds a fuse"),
    ("which relay opens", "a relay opens the valve " * 9),
    ("how", "pump"),
    ("which fuse", "the display starts " * 3),
    ("when does the battery last", "it lasts twelve hours"),
]


def options(model: Path, **values: object) -> Options:
    return Options.model_validate({"model": str(model), "device": "cpu", **values})


def test_scores_are_the_raw_logits_of_the_library(tiny_reranker: Path) -> None:
    from sentence_transformers import CrossEncoder

    scores = Reranker.load(options(tiny_reranker)).score(PAIRS)
    library = CrossEncoder(str(tiny_reranker), device="cpu", local_files_only=True)
    raw = library.predict(PAIRS, activation_fn=nn.Identity(), show_progress_bar=False)
    assert scores == pytest.approx(raw.tolist(), abs=1e-5)
    squashed = library.predict(PAIRS, show_progress_bar=False)  # a sigmoid, unless told otherwise
    assert torch.sigmoid(torch.tensor(scores)).tolist() == pytest.approx(
        squashed.tolist(), abs=1e-5
    )
    assert max(scores) - min(scores) > 0.01


@pytest.mark.parametrize("budget", [1, 40, 4000])
def test_scores_do_not_depend_on_order_or_batches(tiny_reranker: Path, budget: int) -> None:
    whole = Reranker.load(options(tiny_reranker)).score(PAIRS)
    reranker = Reranker.load(options(tiny_reranker, tokens_per_batch=budget))
    assert reranker.score(PAIRS[::-1])[::-1] == pytest.approx(whole, abs=1e-5)
    assert reranker.score([]) == []


def test_batches_keep_to_the_budget_and_go_by_length(
    tiny_reranker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reranker = Reranker.load(options(tiny_reranker, tokens_per_batch=45))
    shapes: list[tuple[int, ...]] = []
    forward = reranker.model.forward

    def noticing(features: dict[str, torch.Tensor], **more: object) -> object:
        shapes.append(tuple(features["input_ids"].shape))
        return forward(features, **more)

    monkeypatch.setattr(reranker.model, "forward", noticing)
    reranker.score(PAIRS)
    assert sum(rows for rows, _ in shapes) == len(PAIRS)
    assert all(rows * length <= 45 or rows == 1 for rows, length in shapes)
    lengths = [length for _, length in shapes]
    assert lengths == sorted(lengths, reverse=True) and len(shapes) > 1


def test_long_pairs_are_cut(tiny_reranker: Path) -> None:
    reranker = Reranker.load(options(tiny_reranker, max_length=12))
    short, long = reranker.score([("fuse", "relay valve " * k) for k in (20, 40)])
    assert short == pytest.approx(long, abs=1e-5)
    with pytest.raises(ModelError, match="max_length: 4000 is more than the 128 tokens"):
        Reranker.load(options(tiny_reranker, max_length=4000))


def test_bf16_stays_near_fp32(tiny_reranker: Path) -> None:
    exact = Reranker.load(options(tiny_reranker)).score(PAIRS)
    fast = Reranker.load(options(tiny_reranker, precision="bf16")).score(PAIRS)
    assert fast == pytest.approx(exact, abs=0.05)
    assert fast != exact


def test_a_fingerprint_is_of_weights_length_and_precision(tiny_reranker: Path) -> None:
    reranker = Reranker.load(options(tiny_reranker))
    first = reranker.fingerprint()
    assert Reranker.load(options(tiny_reranker)).fingerprint() == first
    assert Reranker.load(options(tiny_reranker, max_length=60)).fingerprint() != first
    assert Reranker.load(options(tiny_reranker, precision="bf16")).fingerprint() != first
    with torch.no_grad():
        next(reranker.model.parameters()).mul_(2)
    assert reranker.fingerprint() != first


def test_an_encoder_is_no_reranker(tiny_encoder: Path) -> None:
    with pytest.raises(ModelError, match="no cross-encoder but a BertModel"):
        Reranker.load(options(tiny_encoder))


def test_a_classifier_of_several_labels_is_no_reranker(tiny_reranker: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(
        tiny_reranker, num_labels=3, ignore_mismatched_sizes=True
    )
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_reranker).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="gives 3 scores a pair"):
        Reranker.load(options(tmp_path))


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        Reranker.load(options(tmp_path / "none"))


def test_a_conversation_leaves_room_for_the_passage(tiny_reranker: Path) -> None:
    reranker = Reranker.load(options(tiny_reranker, max_length=24))
    turns = ["relay " * 15, "valve " * 6, "which fuse"]
    found = reranker.score([(Conversation(turns), "pump"), (Conversation(turns), "alarm")])
    expected = reranker.score([("\n".join(turns[1:]), "pump"), ("\n".join(turns[1:]), "alarm")])
    assert found == pytest.approx(expected) and found[0] != pytest.approx(found[1])


def test_positions_of_padding_are_no_room(tiny_reranker: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(tiny_reranker, model_max_length=10**9)
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=26, pad_token_id=1,
    )  # fmt: skip
    config.num_labels = 1
    XLMRobertaForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    reranker = Reranker.load(options(tmp_path))
    assert reranker.max_length == 24
    assert len(reranker.score([("fuse", "relay valve " * 40)])) == 1
    with pytest.raises(ModelError, match="25 is more than the 24 tokens"):
        Reranker.load(options(tmp_path, max_length=25))


def test_a_broken_file_of_weights_is_one_error(tiny_reranker: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_reranker, tmp_path / "broken")
    weights = tmp_path / "broken" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    with pytest.raises(ModelError, match="broken: cannot be loaded"):
        Reranker.load(options(tmp_path / "broken"))
