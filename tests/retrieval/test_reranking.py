"""Reranking: each pair is scored once by the same weights, however often a run is broken off."""

from pathlib import Path

import pytest
import torch

from ragkit.config.blocks import Reranker as Options
from ragkit.data.schema import Passage
from ragkit.errors import DataError
from ragkit.models.reranker import Reranker
from ragkit.retrieval import reranking
from ragkit.retrieval.reranking import Rescorer

CORPUS = {i: Passage(i, f"the {i} opens") for i in ("fuse", "relay", "valve", "pump")}
ASKED = [("which fuse", ["fuse", "relay"]), ("which pump", ["pump", "fuse", "valve"])]


class Counting(Reranker):
    """A reranker that notes what it scores, and can be killed."""

    def __init__(self, model: object, options: Options) -> None:
        super().__init__(model, options)  # type: ignore[arg-type]
        self.pairs: list[tuple[str, str]] = []
        self.killed_after: int | None = None

    def score(self, pairs: list[tuple[str, str]]) -> list[float]:
        if self.killed_after is not None and len(self.pairs) >= self.killed_after:
            raise KeyboardInterrupt
        self.pairs += pairs
        return super().score(pairs)


@pytest.fixture
def reranker(tiny_reranker: Path) -> Counting:
    return Counting.load(Options(model=str(tiny_reranker), device="cpu"))


def test_scores_are_given_by_passage_in_the_order_asked(reranker: Counting, tmp_path: Path) -> None:
    found = Rescorer(reranker, CORPUS, tmp_path / "j.jsonl")(ASKED)
    for (query, ids), scores in zip(ASKED, found, strict=True):
        assert list(scores) == ids
        plain = reranker.score([(query, CORPUS[i].rendered) for i in ids])
        assert list(scores.values()) == pytest.approx(plain, abs=1e-6)


def test_what_an_earlier_process_scored_is_not_scored_again(
    reranker: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Rescorer(reranker, CORPUS, tmp_path / "whole.jsonl")(ASKED)
    monkeypatch.setattr(reranking, "_PART", 2)
    reranker.pairs, reranker.killed_after = [], 4
    with pytest.raises(KeyboardInterrupt):
        Rescorer(reranker, CORPUS, tmp_path / "j.jsonl")(ASKED)
    with (tmp_path / "j.jsonl").open("a") as f:
        f.write('{"key": "cut sho')
    reranker.pairs, reranker.killed_after = [], None
    again = Rescorer(reranker, CORPUS, tmp_path / "j.jsonl")
    for found, expected in zip(again(ASKED), whole, strict=True):
        assert found == pytest.approx(expected, abs=1e-6)
    assert reranker.pairs == [("which pump", CORPUS["valve"].rendered)]
    again(ASKED)
    Rescorer(reranker, CORPUS, tmp_path / "j.jsonl")(ASKED)
    assert len(reranker.pairs) == 1


@pytest.mark.parametrize("change", ["weights", "text"])
def test_scores_of_other_weights_or_texts_are_not_taken(
    change: str, reranker: Counting, tmp_path: Path
) -> None:
    Rescorer(reranker, CORPUS, tmp_path / "j.jsonl")(ASKED)
    reranker.pairs, corpus = [], CORPUS
    if change == "weights":
        with torch.no_grad():
            reranker.model.model.classifier.weight.mul_(-1)
    else:
        corpus = CORPUS | {"fuse": Passage("fuse", "the red fuse opens")}
    found = Rescorer(reranker, corpus, tmp_path / "j.jsonl")(ASKED)
    assert len(reranker.pairs) == (5 if change == "weights" else 2)
    anew = Rescorer(reranker, corpus, tmp_path / "new.jsonl")(ASKED)
    for scores, expected in zip(found, anew, strict=True):
        assert scores == pytest.approx(expected, abs=1e-5)


def test_a_journal_of_something_else_is_refused(reranker: Counting, tmp_path: Path) -> None:
    (tmp_path / "j.jsonl").write_text("[]\n")
    with pytest.raises(DataError, match=r"j\.jsonl:1: not a record of scores"):
        Rescorer(reranker, CORPUS, tmp_path / "j.jsonl")
