"""The grid of retrievers and answerers: which cells and differences there are, and their values."""

import pytest

from ragkit.errors import DataError
from ragkit.evaluation.grid import Cell, Contrast, cells, contrasts, differences


def test_each_retriever_meets_each_answerer_and_gold_passages_need_no_retriever() -> None:
    assert [cell.name for cell in cells(["base", "tuned"], ["a", "b"])] == [
        "base | a | retrieved", "base | b | retrieved",
        "tuned | a | retrieved", "tuned | b | retrieved",
        "a | gold", "b | gold",
    ]  # fmt: skip


def test_the_differences_are_of_one_thing_at_a_time_both_and_the_ceiling() -> None:
    assert [(c.kind, c.name) for c in contrasts(["r", "s"], ["a", "b"])] == [
        ("retriever", "s | a | retrieved - r | a | retrieved"),
        ("retriever", "s | b | retrieved - r | b | retrieved"),
        ("answerer", "r | b | retrieved - r | a | retrieved"),
        ("answerer", "s | b | retrieved - s | a | retrieved"),
        ("answerer", "b | gold - a | gold"),
        ("both", "s | b | retrieved - r | a | retrieved"),
        ("ceiling", "a | gold - r | a | retrieved"),
        ("ceiling", "b | gold - r | b | retrieved"),
        ("ceiling", "a | gold - s | a | retrieved"),
        ("ceiling", "b | gold - s | b | retrieved"),
    ]
    assert [c.kind for c in contrasts(["r"], ["a"])] == ["ceiling"]


RETRIEVED, GOLD = Cell("r", "a"), Cell(None, "a")
CEILING = Contrast("ceiling", RETRIEVED, GOLD)
DOCUMENTS = {q: f"d-{q}" for q in "wxyz"}


def test_a_difference_is_paired_over_the_questions_that_every_cell_scored() -> None:
    # z got no answer in one cell: of w, x and y the gains are 0.2, 0.1 and 0.0
    scores = {
        RETRIEVED: {"w": 0.3, "x": 0.5, "y": 1.0},
        GOLD: {"y": 1.0, "x": 0.6, "w": 0.5, "z": 0.0},
    }
    found = differences(scores, [CEILING], DOCUMENTS, "f1")
    assert list(found) == ["a | gold - r | a | retrieved"]
    gain = found[CEILING.name]
    assert (gain["kind"], gain["before"], gain["after"]) == (
        "ceiling", "r | a | retrieved", "a | gold",
    )  # fmt: skip
    assert gain["mean"] == pytest.approx(0.1)
    assert (gain["wins"], gain["ties"], gain["losses"]) == (2, 1, 0)
    # t interval of three clusters: 0.1 -+ 4.3027 * 0.1 / sqrt(3)
    assert gain["ci95"] == pytest.approx([-0.1484, 0.3484], abs=1e-4)


def test_p_values_are_corrected_for_all_the_differences() -> None:
    better = Cell("s", "a")
    scores = {
        RETRIEVED: {"w": 0.0, "x": 0.1, "y": 0.0, "z": 0.1},
        better: {"w": 0.5, "x": 0.5, "y": 0.5, "z": 0.6},
        GOLD: {"w": 1.0, "x": 0.9, "y": 1.0, "z": 0.9},
    }
    wanted = [Contrast("retriever", RETRIEVED, better), Contrast("ceiling", better, GOLD)]
    first, second = differences(scores, wanted, DOCUMENTS, "f1").values()
    small, large = sorted([first, second], key=lambda d: d["p"])
    assert small["p_holm"] == pytest.approx(2 * small["p"])
    assert large["p_holm"] == pytest.approx(max(large["p"], small["p_holm"]))


def test_cells_without_a_question_in_common_cannot_be_told_apart() -> None:
    with pytest.raises(DataError, match="no question has a score for f1 in all cells"):
        differences({RETRIEVED: {"w": 1.0}, GOLD: {"x": 1.0}}, [CEILING], DOCUMENTS, "f1")
