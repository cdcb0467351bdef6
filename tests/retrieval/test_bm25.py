"""BM25: scores worked out by hand, and the questions on which bm25s itself raises."""

import math

import pytest

from ragkit.config.blocks import Bm25
from ragkit.data.schema import Passage
from ragkit.retrieval.bm25 import Bm25Searcher

CORPUS = {
    p.id: p
    for p in (
        Passage("p1", "gateway fuse fuse"),
        Passage("p2", "gateway relay", title="Pump"),
        Passage("p3", "valve sensor battery cable display port"),
    )
}
LENGTHS = {"p1": 3, "p2": 3, "p3": 6}  # a title is part of what is searched


def lucene(count: int, documents: int, length: int, k1: float = 1.2, b: float = 0.75) -> float:
    """Return a word's BM25 score in Lucene's form, in a corpus of 3 passages of 4 words."""
    idf = math.log(1 + (3 - documents + 0.5) / (documents + 0.5))
    return idf * count / (count + k1 * (1 - b + b * length / 4))


def test_scores_equal_lucenes_formula() -> None:
    (found,) = Bm25Searcher(CORPUS).search(["Gateway fuse?"], 3)
    expected = {"p1": lucene(1, 2, 3) + lucene(2, 1, 3), "p2": lucene(1, 2, 3)}
    assert found == pytest.approx(expected, rel=1e-5)
    assert list(found) == ["p1", "p2"]


def test_k1_and_b_are_the_configured_ones() -> None:
    searcher = Bm25Searcher(CORPUS, Bm25(type="bm25", k1=2.0, b=0.3))
    (found,) = searcher.search(["fuse valve"], 3)
    expected = {"p1": lucene(2, 1, 3, 2.0, 0.3), "p3": lucene(1, 1, 6, 2.0, 0.3)}
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_word_asked_twice_counts_twice() -> None:
    once, twice = Bm25Searcher(CORPUS).search(["fuse", "fuse fuse"], 3)
    assert twice == pytest.approx({"p1": 2 * once["p1"]}, rel=1e-5)


def test_titles_are_searched() -> None:
    assert list(Bm25Searcher(CORPUS).search(["pump"], 3)[0]) == ["p2"]


@pytest.mark.parametrize("question", ["", "   ", "?!", "what is the", "unknown words only"])
def test_a_question_without_known_words_finds_nothing(question: str) -> None:
    assert Bm25Searcher(CORPUS).search([question], 3) == [{}]


def test_questions_without_words_do_not_shift_the_others() -> None:
    found = Bm25Searcher(CORPUS).search(["the", "relay", "", "valve"], 3)
    assert [list(ranking) for ranking in found] == [[], ["p2"], [], ["p3"]]


def test_no_questions_find_nothing() -> None:
    assert Bm25Searcher(CORPUS).search([], 3) == []


def test_only_passages_with_a_common_word_are_returned_whatever_top_k() -> None:
    (found,) = Bm25Searcher(CORPUS).search(["fuse"], 100)
    assert list(found) == ["p1"]


def test_top_k_keeps_the_best() -> None:
    (found,) = Bm25Searcher(CORPUS).search(["gateway fuse"], 1)
    assert list(found) == ["p1"]


def test_equal_passages_get_equal_scores() -> None:
    corpus = {i: Passage(i, "the same words") for i in ("b", "c", "a")} | CORPUS
    (found,) = Bm25Searcher(corpus).search(["same words"], 10)
    assert set(found) == {"a", "b", "c"}
    assert len(set(found.values())) == 1


def test_ties_are_cut_as_trec_eval_orders_them() -> None:
    corpus = {i: Passage(i, "the same words") for i in ("b", "d", "a", "c")} | CORPUS
    (found,) = Bm25Searcher(corpus).search(["same words"], 2)
    assert list(found) == ["d", "c"]


def test_stop_words_count_where_they_are_wanted() -> None:
    corpus = {"p1": Passage("p1", "to be or not to be"), "p2": Passage("p2", "relay")}
    assert Bm25Searcher(corpus).search(["to be"], 2) == [{}]
    searcher = Bm25Searcher(corpus, Bm25(type="bm25", stopwords="none"))
    assert list(searcher.search(["to be"], 2)[0]) == ["p1"]


def test_a_corpus_of_stop_words_is_searched_without_an_error() -> None:
    corpus = {"p1": Passage("p1", "to be or not to be")}
    assert Bm25Searcher(corpus).search(["relay", "to be"], 3) == [{}, {}]


@pytest.mark.parametrize(
    ("texts", "query"),
    [
        (["故宫在北京", "公司在海淀区"], "海淀区"),
        (["दाल और लाल", "दिल्ली में"], "दिल्ली"),
        (["Preis", "Die Gebu\u0308hr"], "Gebühr"),
        (["ราคา", "กรุงเทพ"], "กรุงเทพ"),
        (["ports 2 to 9", "LAN 1"], "LAN 1"),
    ],
    ids=["chinese", "hindi", "decomposed", "thai", "single characters"],
)
def test_words_are_found_in_any_script(texts: list[str], query: str) -> None:
    corpus = {str(i): Passage(str(i), text) for i, text in enumerate(texts)}
    (found,) = Bm25Searcher(corpus).search([query], 2)
    assert next(iter(found)) == "1"
