"""Guards: equal to the plain definitions on any texts, many passages at a time."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ragkit.data.nearduplicates import jaccard, shingles, words
from ragkit.data.schema import Example, Passage
from ragkit.retrieval.guards import CorpusWords, rows_that_answer

TEXTS = st.lists(
    st.lists(st.sampled_from(["a", "b", "c", "the", "Fuse"]), min_size=1, max_size=9).map(" ".join),
    min_size=2,
    max_size=8,
)


def corpus_of(texts: list[str]) -> dict[str, Passage]:
    return {str(i): Passage(str(i), text) for i, text in enumerate(texts)}


@given(TEXTS, st.sampled_from([0.2, 0.5, 0.7, 1.0]))
def test_near_duplicates_are_those_of_jaccard_over_word_triples(
    texts: list[str], threshold: float
) -> None:
    corpus = corpus_of(texts)
    candidates, positives = list(corpus)[1:], ["0", "1"]
    cut = {i: shingles(p.text) for i, p in corpus.items()}
    expected = [any(jaccard(cut[c], cut[p]) >= threshold for p in positives) for c in candidates]
    found = CorpusWords(corpus).near_duplicates(candidates, positives, threshold)
    assert found.tolist() == expected


@given(TEXTS, st.lists(st.sampled_from(["a", "b", "c", "fuse"]), min_size=1, max_size=4))
def test_passages_with_a_text_are_those_that_have_its_words_in_order(
    texts: list[str], wanted: list[str]
) -> None:
    if len(wanted) > 1 and wanted[0] == "a":
        wanted = [*wanted[1:]]  # an article before an answer is no part of it
        if wanted[0] == "a" and len(wanted) > 1:
            wanted = ["b", *wanted]
    expected = []
    for i, text in enumerate(texts):
        told = words(text)
        places = range(len(told) - len(wanted) + 1)
        if any(told[place : place + len(wanted)] == wanted for place in places):
            expected.append(i)
    assert CorpusWords(corpus_of(texts)).rows_with(" ".join(wanted)).tolist() == expected


def test_an_answer_does_not_reach_from_one_passage_into_the_next() -> None:
    words_of = CorpusWords(corpus_of(["ends with red", "cover begins", "the red cover"]))
    assert words_of.rows_with("red cover").tolist() == [2]
    assert words_of.rows_with("unknown cover").tolist() == []
    assert words_of.rows_with("?").tolist() == []


def test_accents_are_compared_in_one_form() -> None:
    words_of = CorpusWords(corpus_of(["cafe\u0301 au lait"]))
    assert words_of.rows_with("caf\u00e9 au").tolist() == [0]


def test_texts_without_words_are_told_apart_by_their_symbols() -> None:
    words_of = CorpusWords(corpus_of(["★ ★", "♦ ♦", "★ ★"]))
    assert words_of.near_duplicates(["1", "2"], ["0"]).tolist() == [False, True]


def test_nobody_to_compare_is_no_error() -> None:
    words_of = CorpusWords(corpus_of(["a b c", "d"]))
    assert words_of.near_duplicates([], ["0"]).tolist() == []
    assert words_of.near_duplicates(["1"], []).tolist() == [False]


def test_an_answer_is_common_from_a_hundredth_of_the_corpus() -> None:
    for share, specific in ((10, True), (11, False)):
        texts = [f"part {'red cover' if i < share else 'no'} {i}" for i in range(1000)]
        example = Example("q", "what?", ("red cover",), ("0",))
        found = rows_that_answer(example, CorpusWords(corpus_of(texts)))
        assert found == (frozenset(range(share)) if specific else frozenset())
        assert np.all(np.array(sorted(found)) < share)
