"""Encoding many texts: order, budget, and going on where a killed call was."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ragkit.config.blocks import EncoderOptions
from ragkit.models.encoder import Encoder
from ragkit.retrieval import encode as module
from ragkit.retrieval.encode import batches, encode, log_cut
from ragkit.retrieval.sharing import forget_progress

FP32 = EncoderOptions(precision="fp32", device="cpu")
TEXTS = [" ".join(["fuse", "relay", "valve"][i % 3 :] * (1 + 5 * i % 7)) for i in range(23)]


class KilledError(Exception):
    """Stands for the end of the process."""


class Counting(Encoder):
    """An encoder that notes how many texts it encoded, and can be killed."""

    encoded = 0
    killed_after: int | None = None

    def forward(self, token_ids: list[list[int]], n_queries: int | None = None) -> torch.Tensor:
        if self.killed_after is not None and self.encoded >= self.killed_after:
            raise KilledError
        self.encoded += len(token_ids)
        return super().forward(token_ids, n_queries)


@pytest.fixture
def encoder(tiny_encoder: Path) -> Counting:
    return Counting.load(str(tiny_encoder))


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write after every five texts, encode three tokens (one text) at a time."""
    monkeypatch.setattr(module, "_SHARD", 5)
    monkeypatch.setattr(module, "_TOKENS_PER_BATCH", {"cpu": 3})
    monkeypatch.setattr(module, "_LEAST_TOKENS", 1)


def one_by_one(encoder: Encoder, texts: list[str]) -> np.ndarray:
    with torch.inference_mode():
        return np.concatenate([encoder(encoder.tokenize([t], "passage")) for t in texts])


def killed(encoder: Counting, texts: list[str], out: Path, after: int) -> None:
    """Run a call that ends with the given number of texts encoded."""
    encoder.encoded, encoder.killed_after = 0, after
    with pytest.raises(KilledError):
        encode(encoder, texts, "passage", FP32, out)
    encoder.encoded, encoder.killed_after = 0, None


@pytest.mark.parametrize("on_disk", [False, True])
def test_rows_are_in_the_order_of_the_texts(
    on_disk: bool, encoder: Counting, tmp_path: Path, small_shards: None
) -> None:
    out = tmp_path / "rows.npy" if on_disk else None
    rows = encode(encoder, TEXTS, "passage", FP32, out)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, one_by_one(encoder, TEXTS), rtol=0, atol=1e-5)
    if out:
        np.testing.assert_array_equal(np.load(out), rows)
        forget_progress(out)
        assert [p.name for p in tmp_path.iterdir()] == ["rows.npy"]


def test_each_kind_of_text_is_encoded_with_its_prefix(tiny_encoder: Path) -> None:
    options = EncoderOptions(query_prefix="which ", passage_prefix="the ", precision="fp32")
    encoder, plain = Encoder.load(str(tiny_encoder), options), Encoder.load(str(tiny_encoder))
    for kind, prefix in (("query", "which "), ("passage", "the ")):
        np.testing.assert_allclose(
            encode(encoder, ["fuse"], kind, options),
            encode(plain, [prefix + "fuse"], kind, FP32),
            rtol=0,
            atol=1e-6,
        )


def test_encoding_computes_without_dropout_and_without_gradients(encoder: Counting) -> None:
    encoder.train()
    first = encode(encoder, TEXTS, "passage", FP32)
    np.testing.assert_array_equal(first, encode(encoder, TEXTS, "passage", FP32))
    assert not encoder.training


def test_unless_told_otherwise_vectors_are_those_of_sentence_transformers(
    encoder: Counting, tmp_path: Path
) -> None:
    library = pytest.importorskip("sentence_transformers")
    encoder.save(tmp_path / "model")
    model = library.SentenceTransformer(str(tmp_path / "model"), device="cpu")
    expected = model.encode_document(TEXTS, convert_to_numpy=True, show_progress_bar=False)
    rows = encode(encoder, TEXTS, "passage", EncoderOptions(device="cpu"))
    np.testing.assert_allclose(rows, expected, rtol=0, atol=1e-5)


def test_bf16_stays_near_fp32(encoder: Counting) -> None:
    rows = encode(encoder, TEXTS, "passage", EncoderOptions(precision="bf16", device="cpu"))
    exact = encode(encoder, TEXTS, "passage", FP32)
    assert (rows * exact).sum(axis=1).min() > 0.999
    assert not np.array_equal(rows, exact)


def test_a_killed_call_goes_on_after_its_last_whole_shard(
    encoder: Counting, tmp_path: Path, small_shards: None
) -> None:
    killed(encoder, TEXTS, tmp_path / "rows.npy", after=12)
    rows = encode(encoder, TEXTS, "passage", FP32, tmp_path / "rows.npy")
    assert encoder.encoded == 23 - 10
    again = encode(encoder, TEXTS, "passage", FP32, tmp_path / "rows.npy")  # all done: no work
    assert encoder.encoded == 23 - 10
    np.testing.assert_array_equal(again, rows)
    np.testing.assert_allclose(rows, one_by_one(encoder, TEXTS), rtol=0, atol=1e-5)
    forget_progress(tmp_path / "rows.npy")
    assert [p.name for p in tmp_path.iterdir()] == ["rows.npy"]


def test_a_killed_call_leaves_no_file_that_looks_finished(
    encoder: Counting, tmp_path: Path, small_shards: None
) -> None:
    killed(encoder, TEXTS, tmp_path / "rows.npy", after=12)
    assert not (tmp_path / "rows.npy").exists()


@pytest.mark.parametrize("change", ["one text", "the order", "the number"])
def test_rows_of_other_texts_are_not_taken(
    change: str, encoder: Counting, tmp_path: Path, small_shards: None
) -> None:
    others = {
        "one text": [*TEXTS[:-1], "another"],
        "the order": TEXTS[::-1],
        "the number": TEXTS[:-1],
    }[change]
    killed(encoder, others, tmp_path / "rows.npy", after=12)
    rows = encode(encoder, TEXTS, "passage", FP32, tmp_path / "rows.npy")
    assert encoder.encoded == 23
    np.testing.assert_allclose(rows, one_by_one(encoder, TEXTS), rtol=0, atol=1e-5)


def test_rows_that_a_call_with_other_texts_overwrote_are_not_taken_for_ones_own(
    encoder: Counting, tmp_path: Path, small_shards: None
) -> None:
    killed(encoder, TEXTS, tmp_path / "rows.npy", after=12)
    killed(encoder, TEXTS[::-1], tmp_path / "rows.npy", after=2)  # before its first shard is done
    rows = encode(encoder, TEXTS, "passage", FP32, tmp_path / "rows.npy")
    np.testing.assert_allclose(rows, one_by_one(encoder, TEXTS), rtol=0, atol=1e-5)


@pytest.mark.parametrize("change", ["weights", "pooling", "kind"])
def test_rows_of_another_encoder_are_not_taken(
    change: str, encoder: Counting, tiny_encoder: Path, tmp_path: Path, small_shards: None
) -> None:
    killed(encoder, TEXTS, tmp_path / "rows.npy", after=12)
    pooling = "cls" if change == "pooling" else "mean"
    options = EncoderOptions(pooling=pooling, query_prefix="which ")
    other = Encoder.load(str(tiny_encoder), options)
    if change == "weights":
        with torch.no_grad():
            other.model.embeddings.word_embeddings.weight.mul_(-1)
    kind = "query" if change == "kind" else "passage"
    rows = encode(other, TEXTS, kind, FP32, tmp_path / "rows.npy")
    np.testing.assert_allclose(rows, encode(other, TEXTS, kind, FP32), rtol=0, atol=1e-5)


LENGTHS = st.lists(st.integers(1, 40), max_size=30)


@given(LENGTHS, st.integers(1, 100))
def test_batches_take_every_text_once_and_keep_to_the_budget(
    lengths: list[int], budget: int
) -> None:
    found = list(batches([[0] * n for n in lengths], budget))
    assert sorted(i for batch in found for i in batch) == list(range(len(lengths)))
    for batch in found:
        padded = len(batch) * max(lengths[i] for i in batch)
        assert padded <= budget or len(batch) == 1
    longest_first = [lengths[i] for batch in found for i in batch]
    assert longest_first == sorted(lengths, reverse=True)


def test_texts_that_fill_the_encoder_are_counted(encoder: Counting, log_lines: list[str]) -> None:
    limit = encoder.settings.max_length
    log_cut(encoder, [[0] * (limit - 1), [0] * limit, [0]], "texts")
    assert log_lines == [
        f"1 of 3 texts fill the encoder's {limit} tokens; the rest of them is not seen"
    ]


def test_threads_share_the_batches_and_change_nothing(encoder: Counting) -> None:
    alone = {p: encode(encoder, TEXTS * 40, "passage", EncoderOptions(precision=p, device="cpu"))
             for p in ("fp32", "bf16")}  # fmt: skip
    torch.set_num_threads(3)
    try:
        for precision, expected in alone.items():
            options = EncoderOptions(precision=precision, device="cpu")
            rows = encode(encoder, TEXTS * 40, "passage", options)
            np.testing.assert_allclose(
                rows, expected, rtol=0, atol=1e-5 if precision == "fp32" else 0.02
            )
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize(("threads", "expected"), [(1, [8]), (2, [4, 4]), (4, [2, 2, 2, 2])])
def test_few_texts_are_divided_among_the_threads(
    threads: int, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    token_ids = [[0] * 200] * 8
    budget = module._budget(token_ids, torch.device("cpu"))
    assert [len(batch) for batch in batches(token_ids, budget)] == expected
    assert module._budget([[0] * 5], torch.device("cpu")) == module._LEAST_TOKENS


def test_texts_are_read_a_shard_at_a_time(
    encoder: Counting, tmp_path: Path, small_shards: None
) -> None:
    asked: list[slice] = []

    class Lazy(Sequence[str]):
        def __len__(self) -> int:
            return len(TEXTS)

        def __iter__(self) -> Iterator[str]:
            return iter(TEXTS)

        def __getitem__(self, place: int | slice) -> str | list[str]:
            assert isinstance(place, slice)
            asked.append(place)
            return TEXTS[place]

    rows = encode(encoder, Lazy(), "passage", FP32, tmp_path / "rows.npy")
    np.testing.assert_allclose(rows, one_by_one(encoder, TEXTS), rtol=0, atol=1e-5)
    assert asked == [slice(i, min(i + 5, 23)) for i in range(0, 23, 5)]
