"""Ranking metrics: values worked out by hand, and equality with pytrec_eval, ties included."""

import math

import numpy as np
import pytest
import pytrec_eval
from hypothesis import example, given
from hypothesis import strategies as st

from ragkit.errors import DataError
from ragkit.evaluation.ranking import Qrels, Run, deepest, evaluate, rank

CUTOFFS = (1, 2, 3, 5, 10)
# Ids whose order as numbers, as text and as UTF-8 bytes differ where anything could go wrong.
PASSAGE_IDS = st.sampled_from(
    ["1", "10", "2", "d", "D", "d0", "d-1", "é", "e", "z", "日本", "😀", "\uffee"]
)
# 1 + 1e-9 is 1 as float32; 1e39 and 1e40 are both infinite; -0.0 is 0.0.
SCORES = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, 1 + 1e-9, 1 + 1e-7, -1.0, 16777216.0, 16777217.0]),
    st.sampled_from([1e39, 1e40, -1e39, math.inf, -math.inf, 1e-46, 1e-40]),
    st.floats(-3, 3),
)
QUERY_IDS = st.sampled_from(["q1", "q2", "q3", "q4"])
QRELS = st.dictionaries(
    QUERY_IDS, st.dictionaries(PASSAGE_IDS, st.integers(-1, 3), min_size=1), min_size=1
)
RUNS = st.dictionaries(QUERY_IDS, st.dictionaries(PASSAGE_IDS, SCORES, min_size=1))


def trec_eval(qrels: Qrels, run: Run, measure: str) -> dict[str, float]:
    """Score with pytrec_eval; a query with relevant passages that the run lacks scores 0."""
    key, _, cutoff = measure.partition(".")
    scores = pytrec_eval.RelevanceEvaluator(qrels, {measure}).evaluate(run) if run else {}
    name = f"{key}_{cutoff}" if cutoff else key
    return {
        query_id: scores[query_id][name] if query_id in scores else 0.0
        for query_id, judged in qrels.items()
        if max(judged.values()) >= 1
    }


def only(metrics: dict[str, dict[str, float]], query_id: str = "q") -> dict[str, float]:
    return {name: scores[query_id] for name, scores in metrics.items()}


@given(QRELS, RUNS)
@example({"q1": {"a": 0}}, {"q1": {"a": 1.0}})
@example({"q1": {"a": 1}}, {})
def test_every_metric_equals_trec_eval_on_graded_and_tied_runs(qrels: Qrels, run: Run) -> None:
    measures = {"map": "map"}
    for k in CUTOFFS:
        measures |= {
            f"recall@{k}": f"recall.{k}",
            f"hit@{k}": f"success.{k}",
            f"precision@{k}": f"P.{k}",
            f"ndcg@{k}": f"ndcg_cut.{k}",
            f"map@{k}": f"map_cut.{k}",
        }
    ours = evaluate(qrels, run, list(measures))
    for metric, measure in measures.items():
        assert ours[metric] == pytest.approx(trec_eval(qrels, run, measure), abs=1e-12)


@given(QRELS, RUNS)
def test_mrr_equals_trec_eval_on_the_run_cut_at_k(qrels: Qrels, run: Run) -> None:
    ours = evaluate(qrels, run, [f"mrr@{k}" for k in CUTOFFS])
    for k in CUTOFFS:
        cut = {q: {p: scores[p] for p in rank(scores)[:k]} for q, scores in run.items()}
        expected = trec_eval(qrels, cut, "recip_rank")
        assert ours[f"mrr@{k}"] == pytest.approx(expected, abs=1e-12)


@given(st.dictionaries(PASSAGE_IDS, SCORES, min_size=1))
def test_rank_puts_each_passage_where_trec_eval_finds_it(scores: dict[str, float]) -> None:
    for place, passage_id in enumerate(rank(scores), start=1):
        found = trec_eval({"q": {passage_id: 1}}, {"q": scores}, "recip_rank")
        assert found["q"] == pytest.approx(1 / place)


def test_a_large_run_of_few_distinct_scores_equals_trec_eval() -> None:
    rng = np.random.default_rng(0)
    qrels: Qrels = {}
    run: Run = {}
    for q in range(50):
        judged, retrieved = rng.integers(0, 400, 40), rng.integers(0, 400, 200)
        qrels[f"q{q}"] = {f"p{p}": int(rng.integers(0, 4)) for p in judged} | {"gold": 1}
        run[f"q{q}"] = {f"p{p}": float(rng.integers(0, 20)) / 7 - 1 for p in retrieved}
    ours = evaluate(qrels, run, ["ndcg@100", "map", "recall@50"])
    assert ours["ndcg@100"] == pytest.approx(trec_eval(qrels, run, "ndcg_cut.100"), abs=1e-12)
    assert ours["map"] == pytest.approx(trec_eval(qrels, run, "map"), abs=1e-12)
    assert ours["recall@50"] == pytest.approx(trec_eval(qrels, run, "recall.50"), abs=1e-12)


def test_metrics_of_a_small_ranking_are_those_worked_out_by_hand() -> None:
    # Ranking a b c d; relevant: b (grade 1), d (grade 3), and x, which was not found (grade 2).
    qrels = {"q": {"b": 1, "d": 3, "x": 2, "a": 0}}
    run = {"q": {"a": 0.9, "b": 0.8, "c": 0.7, "d": 0.6}}
    names = ["recall@2", "recall@4", "hit@1", "hit@2", "precision@4", "precision@10"]
    assert only(evaluate(qrels, run, names)) == pytest.approx(
        {
            "recall@2": 1 / 3,
            "recall@4": 2 / 3,
            "hit@1": 0,
            "hit@2": 1,
            "precision@4": 2 / 4,
            "precision@10": 2 / 10,
        }
    )
    ndcg_4 = (1 / math.log2(3) + 3 / math.log2(5)) / (3 + 2 / math.log2(3) + 1 / math.log2(4))
    ndcg_2 = (1 / math.log2(3)) / (3 + 2 / math.log2(3))
    names = ["mrr@1", "mrr@4", "ndcg@2", "ndcg@4", "map", "map@3"]
    assert only(evaluate(qrels, run, names)) == pytest.approx(
        {
            "mrr@1": 0,
            "mrr@4": 1 / 2,
            "ndcg@2": ndcg_2,
            "ndcg@4": ndcg_4,
            "map": (1 / 2 + 2 / 4) / 3,
            "map@3": (1 / 2) / 3,
        }
    )


def test_ties_go_to_the_greater_id() -> None:
    assert rank({"a": 1.0, "c": 1.0, "b": 1.0, "top": 2.0}) == ["top", "c", "b", "a"]


def test_scores_that_differ_only_beyond_float32_are_tied() -> None:
    assert rank({"a": 1.0 + 1e-9, "b": 1.0}) == ["b", "a"]
    assert evaluate({"q": {"a": 1}}, {"q": {"a": 1.0 + 1e-9, "b": 1.0}}, ["mrr@1"]) == {
        "mrr@1": {"q": 0.0}
    }


def test_queries_without_a_relevant_passage_are_left_out() -> None:
    qrels = {"none": {"a": 0}, "empty": {}, "negative": {"a": -1}, "q": {"a": 1}}
    assert evaluate(qrels, {"none": {"a": 1.0}, "q": {"a": 1.0}}, ["map"]) == {"map": {"q": 1.0}}


def test_a_query_absent_from_the_run_scores_zero() -> None:
    names = ["recall@5", "hit@5", "precision@5", "mrr@5", "ndcg@5", "map"]
    for run in ({}, {"q": {}}, {"other": {"a": 1.0}}):
        assert evaluate({"q": {"a": 1}}, run, names) == {name: {"q": 0.0} for name in names}


def test_passages_and_queries_without_judgements_count_as_not_relevant() -> None:
    qrels = {"q": {"a": 1, "never-indexed": 1}}
    run = {"q": {"unknown": 2.0, "a": 1.0}, "unasked": {"a": 1.0}}
    found = only(evaluate(qrels, run, ["recall@2", "mrr@10", "precision@2"]))
    assert found == {"recall@2": 0.5, "mrr@10": 0.5, "precision@2": 0.5}


def test_no_queries_give_no_scores() -> None:
    assert evaluate({}, {"q": {"a": 1.0}}, ["ndcg@10", "map"]) == {"ndcg@10": {}, "map": {}}
    assert rank({}) == []


def test_queries_keep_the_order_of_the_qrels() -> None:
    qrels = {query_id: {"a": 1} for query_id in ("z", "a", "m")}
    assert list(evaluate(qrels, {"m": {"a": 1.0}}, ["map"])["map"]) == ["z", "a", "m"]


def test_inputs_are_left_as_they_were() -> None:
    qrels = {"q": {"a": 1, "b": 0}}
    run = {"q": {"b": 1.0, "a": 1.0}}
    evaluate(qrels, run, ["map", "ndcg@1"])
    assert qrels == {"q": {"a": 1, "b": 0}}
    assert list(run["q"].items()) == [("b", 1.0), ("a", 1.0)]


def test_a_score_that_is_not_a_number_names_its_query_and_passage() -> None:
    qrels = {"q1": {"a": 1}, "q2": {"a": 1}, "q3": {"a": 1}}
    run = {"q1": {"a": 1.0}, "q2": {}, "q3": {"a": 1.0, "broken": math.nan, "b": 0.0}}
    with pytest.raises(DataError, match=r"query 'q3', passage 'broken': score is NaN"):
        evaluate(qrels, run, ["map"])
    with pytest.raises(DataError, match=r"passage 'broken': score is NaN"):
        rank(run["q3"])


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("recal@20", "recall@20"),
        ("nDCG_10", "ndcg@10"),
        ("ndcg", "ndcg@10"),
        ("mrr@0", "mrr@10"),
        ("map@x", "map@10"),
        ("precison@5", "precision@5"),
    ],
)
def test_an_unknown_metric_gets_the_valid_forms_and_a_suggestion(wrong: str, meant: str) -> None:
    with pytest.raises(DataError) as error:
        evaluate({"q": {"a": 1}}, {}, [wrong])
    assert f"unknown metric {wrong!r} (did you mean {meant}?)" in str(error.value)
    assert "recall@k, hit@k, precision@k, mrr@k, ndcg@k, map, map@k" in str(error.value)


@pytest.mark.parametrize("wrong", ["", "@10", "bleu", "ndcg@10 ", "ndcg@-1", "ndcg@1.5"])
def test_only_the_exact_form_of_a_metric_is_accepted(wrong: str) -> None:
    with pytest.raises(DataError, match="unknown metric"):
        evaluate({"q": {"a": 1}}, {}, [wrong])


def test_the_deepest_cut_off_is_found_among_the_metrics() -> None:
    assert deepest(["recall@5", "ndcg@200", "map"]) == 200
    assert deepest(["map"]) == 0
