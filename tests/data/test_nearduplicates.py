"""Near-duplicates: by hand, and ROUGE-L against the package of its authors."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from ragkit.data.nearduplicates import (
    Neighbours,
    figures,
    jaccard,
    overlap_f1,
    shingles,
    words,
)

WORDS = st.lists(st.sampled_from(["ab", "cd", "ef", "gh1", "2"]), max_size=12)
ROUGE_L = RougeScorer(["rougeL"])


@settings(deadline=None)
@given(WORDS, WORDS)
def test_overlap_is_the_rouge_l_of_rouge_score(a: list[str], b: list[str]) -> None:
    reference = ROUGE_L.score(" ".join(a), " ".join(b))["rougeL"].fmeasure
    assert overlap_f1(a, b) == pytest.approx(reference, abs=1e-12)


def test_overlap_worked_out_by_hand() -> None:
    # the longest common subsequence of "a b c d" and "b d e" is "b d": 2 * 2 / (4 + 3)
    assert overlap_f1(["a", "b", "c", "d"], ["b", "d", "e"]) == pytest.approx(4 / 7)
    assert overlap_f1([], ["a"]) == overlap_f1([], []) == 0.0


def test_words_are_lower_case_and_without_punctuation_in_any_script() -> None:
    assert words("Don't PANIC, Ärger! 東京") == ["don", "t", "panic", "ärger", "東", "京"]


def test_shingles_are_runs_of_words_and_a_short_text_is_one_run() -> None:
    assert shingles("a b c d") == {("a", "b", "c"), ("b", "c", "d")}
    assert shingles("a b") == {("a", "b")}
    assert shingles("a b", n=1) == {("a",), ("b",)}


def test_jaccard_worked_out_by_hand() -> None:
    assert jaccard(shingles("a b c d"), shingles("b c d e")) == pytest.approx(1 / 3)
    assert jaccard(frozenset(), frozenset()) == 0.0
    assert jaccard(shingles("a b c"), shingles("A, B; c!")) == 1.0


def test_a_letter_and_its_mark_are_one_however_they_are_written() -> None:
    assert words("Zu\u0308rich") == words("Zürich") == ["zürich"]
    assert figures("U\u0308 5") == figures("Ü 5") == {"5"}
    assert words("पंप का दाब क्या है?") == ["पंप", "का", "दाब", "क्या", "है"]


def test_the_neighbour_of_a_question_is_the_first_that_a_search_through_all_finds() -> None:
    rng = random.Random(0)
    vocabulary = ["a", "b", "c", "d", "e", "a", "a", "2", "3"]  # many repeats, and figures

    def sentence() -> str:
        return " ".join(rng.choice(vocabulary) for _ in range(rng.randint(1, 9)))

    held = [sentence() for _ in range(60)]
    found = set()
    for least in (0.05, 0.5, 0.7, 1.0):
        near = Neighbours(held)
        for _ in range(200):
            asked = sentence()
            expected = [
                i for i, h in enumerate(held)
                if figures(h) == figures(asked) and overlap_f1(words(asked), words(h)) >= least
            ]  # fmt: skip
            assert near.near(asked, least) == (expected[0] if expected else None)
            found.add(bool(expected))
    assert found == {True, False}


def test_nothing_is_near_where_no_word_is_shared() -> None:
    assert Neighbours(["one two"]).near("three four", 0.01) is None
    assert Neighbours().near("three four", 0.01) is None
    assert Neighbours(["..."]).near("...", 0.01) is None
