"""The round trip, and questions that mean the same, with BM25 alone and with a tiny encoder."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ragkit.config.teaching import Filters
from ragkit.data.schema import Passage, Turn
from ragkit.qa import meaning
from ragkit.qa.candidates import Candidate
from ragkit.qa.meaning import Meaning

TEXTS = {
    "pump": "the pump starts every twelve hours",
    "valve": "the valve opens when the alarm stops",
    "fuse": "the fuse holds thirty amps",
    "lamp": "the lamp takes forty watts",
}
CORPUS = {i: Passage(i, text) for i, text in TEXTS.items()}
LOST, SAME = "not found again", "near-duplicate in meaning"


def candidate(question: str, *passages: str, split: str = "train", **more: Any) -> Candidate:
    values = {"doc_id": "d", "style": "factoid", **more}
    return Candidate(question, "so", passages, split=split, **values)


Judge = Callable[..., list[str | None]]


@pytest.fixture
def judge(tmp_path: Path, tiny_encoder: Path) -> Judge:
    """Judge candidates; return the reasons in their order."""

    def run(candidates: Sequence[Candidate], encoder: bool = False, **config: Any) -> Any:
        model = str(tiny_encoder) if encoder else None
        trip = {"top_k": 1, "model": model, "encoder": {"precision": "fp32", "device": "cpu"}}
        filters = Filters.model_validate({"round_trip": trip, **config})
        verdicts = list(Meaning(filters, CORPUS, tmp_path / "index").judge(candidates))
        assert [c for c, _ in verdicts] == list(candidates)
        return [reason for _, reason in verdicts]

    return run


def test_a_training_question_must_find_its_passage_again_by_words(judge: Judge) -> None:
    made = [
        candidate("when does the pump start every hours", "pump"),
        candidate("when does the pump start every hours", "fuse"),
        candidate("is there nothing like it", "lamp"),
        candidate("when does the valve open", "fuse", "valve"),
    ]
    assert judge(made) == [None, LOST, LOST, None]


@pytest.mark.parametrize(
    "more",
    [{"split": "test"}, {"split": "dev"}, {"answerable": False}],
)
def test_only_answerable_training_questions_make_the_trip(
    judge: Judge, more: dict[str, Any]
) -> None:
    assert judge([candidate("when does the pump start", "fuse", **more)]) == [None]


def test_a_follow_up_is_searched_for_with_its_turns(judge: Judge) -> None:
    turns = (Turn("user", "what does the fuse hold"), Turn("assistant", "thirty amps"))
    made = [candidate("and after it", "fuse", history=turns), candidate("and after it", "fuse")]
    assert judge(made) == [None, LOST]


def test_what_either_search_finds_has_made_the_trip(judge: Judge) -> None:
    # no word is common with its passage, but to the encoder it is the same text
    same = candidate("starts", "pump")
    both = [candidate(TEXTS["lamp"], "lamp"), candidate("no such words", "valve")]
    assert judge([same, *both], encoder=False) == [None, None, LOST]
    found = judge([*both, same], encoder=True)
    assert found[0] is None and found[2] is None


def test_the_encoder_finds_what_words_do_not(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [candidate("nothing of these", "fuse"), candidate("others than those", "lamp")]
    assert judge(made) == [LOST, LOST]
    row = list(CORPUS).index("fuse")
    nearest = lambda self, vectors, k: (None, np.full((len(vectors), k), row))  # noqa: E731
    monkeypatch.setattr(meaning.VectorIndex, "search", nearest)
    assert judge(made, encoder=True) == [None, LOST]


def vectors(*rows: Sequence[float]) -> Callable[..., Any]:
    return lambda *_: np.array(rows, np.float32)


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put questions at places of a plane, in degrees."""

    def place(*degrees: float) -> None:
        found = [(2 * np.cos(np.radians(d)), 2 * np.sin(np.radians(d))) for d in degrees]
        monkeypatch.setattr(meaning, "encode", vectors(*found))
        nothing = lambda self, queries, k: (None, np.full((len(queries), k), -1))  # noqa: E731
        monkeypatch.setattr(meaning.VectorIndex, "search", nothing)

    monkeypatch.setattr(meaning, "build_index", lambda *_: meaning.VectorIndex.__new__(
        meaning.VectorIndex))  # fmt: skip
    return place


def test_questions_of_a_passage_with_a_high_cosine_mean_the_same(judge: Judge, at: Any) -> None:
    made = [candidate(f"{word} pump starts", "pump") for word in ("when", "what", "how", "a")]
    at(0, 18, 19, 37)  # cos 18° is 0.951, cos 19° is 0.946
    # the third is far enough from the first, and the second was not kept; the fourth is 18 from it
    assert judge(made, encoder=True) == [None, SAME, None, SAME]
    assert judge(made, encoder=True, duplicate_cosine=0.99) == [None] * 2 + [SAME, None]


def test_questions_of_two_passages_or_with_other_figures_are_no_duplicates(
    judge: Judge, at: Any
) -> None:
    at(0, 0, 0, 0)
    made = [
        candidate("does the pump start on 24 bars", "pump"),
        candidate("does the pump start on 48 bars", "pump"),
        candidate("does the pump start, the one on 24 bars", "pump"),
        candidate("does the valve open on 24 bars", "valve"),
    ]
    assert judge(made, encoder=True) == [None, None, SAME, None]


def test_test_questions_may_mean_the_same(judge: Judge, at: Any) -> None:
    at(0, 0, 0, 0)
    made = [candidate("when does it", "pump", split=s) for s in ("test", "test", "dev", "dev")]
    assert judge(made, encoder=True) == [None, None, None, SAME]


def test_many_candidates_are_judged_in_blocks_of_whole_passages(
    judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = list(TEXTS)
    made = [
        candidate(f"does the {name} do it {i}", words[k])
        for k in range(4)
        for i, name in enumerate([words[k], words[k], words[(k + 1) % 4]])
    ]
    expected = [None, None, LOST] * 4
    assert judge(made) == expected
    monkeypatch.setattr(meaning, "_TOGETHER", 2)
    assert judge(made) == expected


def test_no_candidates_are_no_verdicts(judge: Judge) -> None:
    assert judge([]) == judge([], encoder=True) == []
