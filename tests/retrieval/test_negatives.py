"""Hard negatives: what is dropped, by hand; and that nobody is dropped for having too few."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ragkit.config.blocks import EncoderOptions
from ragkit.data.schema import Example, Passage
from ragkit.models.encoder import Encoder
from ragkit.retrieval import negatives
from ragkit.retrieval.encode import encode
from ragkit.retrieval.index import build_index
from ragkit.retrieval.negatives import (
    ANSWER,
    DUPLICATE,
    NEAR,
    POSITIVE,
    RERANKED,
    TOP,
    UNRANKED,
    KnownQueries,
    Mined,
    Rules,
    mine,
    remine,
)

LONG = "the gateway has one fuse of twelve volts behind the red cover"
CORPUS = {p.id: p for p in (Passage(f"p{i}", f"passage number {i} says {i * 7}") for i in range(9))}
RANKING = {f"p{i}": 1.0 - i / 10 for i in range(9)}  # p0 first


def mined(
    *examples: Example,
    corpus: Mapping[str, Passage] = CORPUS,
    n: int = 3,
    **options: object,
) -> Mined:
    given = {name: options.pop(name) for name in ("cosine", "rescore") if name in options}
    ranking = {p: s for p, s in RANKING.items() if p in corpus}
    rules = Rules(n=n, **{"max_share": 0.95 if "cosine" in given else None, **options})
    return mine(
        examples,
        corpus,
        lambda queries, depth: [dict(list(ranking.items())[:depth])] * len(queries),
        rules,
        **given,
    )


def cosines(*values: float) -> Callable[[str, Sequence[str]], np.ndarray]:
    """Return the similarities of every question with p0, p1, ..."""
    return lambda _, ids: np.array([values[int(i[1:])] for i in ids], np.float32)


def test_the_highest_that_are_no_positives_are_taken_in_order() -> None:
    result = mined(Example("q", "what?", positive_ids=("p1",)))
    assert result.examples[0].negative_ids == ("p0", "p2", "p3")
    assert result.dropped == [{POSITIVE: ["p1"]}]
    assert result.totals == {POSITIVE: 1}
    assert result.too_few == {}


def test_a_passage_is_never_a_negative_of_a_question_that_another_example_answers_with_it() -> None:
    first = Example("q1", "What is it?", positive_ids=("p0",))
    second = Example("q2", " what  is IT?", positive_ids=("p2",))
    result = mined(first, second)
    assert [e.negative_ids for e in result.examples] == [("p1", "p3", "p4")] * 2
    assert result.totals[POSITIVE] == 4


@pytest.mark.parametrize("text", [LONG, LONG.upper() + "!", LONG + " today"])
def test_near_duplicates_of_a_positive_are_dropped(text: str) -> None:
    corpus = CORPUS | {"p0": Passage("p0", LONG), "p1": Passage("p1", text)}
    result = mined(Example("q", "what?", positive_ids=("p0",)), corpus=corpus)
    assert result.examples[0].negative_ids == ("p2", "p3", "p4")
    assert result.totals[DUPLICATE] == 1


def test_a_passage_with_other_facts_is_no_near_duplicate() -> None:
    other = "the gateway has one relay of thirty volts behind the green cover"
    corpus = CORPUS | {"p0": Passage("p0", LONG), "p1": Passage("p1", other)}
    result = mined(Example("q", "what?", positive_ids=("p0",)), corpus=corpus)
    assert result.examples[0].negative_ids == ("p1", "p2", "p3")


def test_near_duplicates_of_what_another_example_answers_with_are_dropped() -> None:
    corpus = CORPUS | {"p0": Passage("p0", LONG), "p1": Passage("p1", LONG + " today")}
    first = Example("q1", "what?", positive_ids=("p0",))
    second = Example("q2", "what?", positive_ids=("p5",))
    assert mined(first, second, corpus=corpus).examples[1].negative_ids == ("p2", "p3", "p4")


def test_candidates_above_a_share_of_the_lowest_positive_are_dropped() -> None:
    # the lowest positive has 0.8, the limit is 0.8 * 0.9 = 0.72: p1 and p4 are too near
    similarity = cosines(0.9, 0.73, 0.8, 0.71, 0.95, 0.5, 0.1, 0.0, -0.5)
    example = Example("q", "what?", positive_ids=("p0", "p2"))
    result = mined(example, cosine=similarity, max_share=0.9)
    assert result.examples[0].negative_ids == ("p3", "p5", "p6")
    assert result.dropped[0][NEAR] == ["p1", "p4"]


def test_without_cosines_nothing_is_too_near() -> None:
    result = mined(Example("q", "what?", positive_ids=("p8",)), max_share=None)
    assert result.examples[0].negative_ids == ("p0", "p1", "p2")


def test_each_example_asks_for_its_own_cosines() -> None:
    def cosine(query: str, ids: Sequence[str]) -> np.ndarray:
        low = query == "what 1?"  # everything is too near to the second question
        return np.array([1.0 if low or i == "p8" else 0.0 for i in ids], np.float32)

    examples = [Example(f"q{i}", f"what {i}?", positive_ids=("p8",)) for i in range(2)]
    result = mined(*examples, cosine=cosine)
    assert [e.negative_ids for e in result.examples] == [("p0", "p1", "p2"), ()]
    assert result.too_few == {"q1": {NEAR: 8, POSITIVE: 1}}
    assert result.causes == {NEAR: 1}


def test_fewer_than_asked_are_kept_and_reported_and_no_example_is_dropped() -> None:
    positives = tuple(f"p{i}" for i in range(7))
    few, none = (
        Example("few", "a?", positive_ids=positives),
        Example("none", "b?", answerable=False),
    )
    many = Example("many", "c?", positive_ids=("p0",))
    result = mined(few, none, many)
    assert [e.id for e in result.examples] == ["few", "none", "many"]
    assert [e.negative_ids for e in result.examples] == [("p7", "p8"), (), ("p1", "p2", "p3")]
    assert result.too_few == {"few": {POSITIVE: 7}}


def test_everything_else_of_an_example_stays() -> None:
    example = Example("q", "what?", ("an answer",), ("p0",), meta={"page": 3})
    (result,) = mined(example).examples
    assert result == replace(example, negative_ids=("p1", "p2", "p3"))


def test_sampling_draws_from_all_candidates_and_is_reproducible() -> None:
    examples = [Example(f"q{i}", f"what {i}?", positive_ids=("p8",)) for i in range(30)]
    drawn = [e.negative_ids for e in mined(*examples, pick="sample", seed=1).examples]
    assert all(len(set(ids)) == 3 for ids in drawn)
    assert {i for ids in drawn for i in ids} == CORPUS.keys() - {"p8"}
    again = [e.negative_ids for e in mined(*examples[::-1], pick="sample", seed=1).examples]
    assert again[::-1] == drawn  # an example's draw does not depend on the others
    other = [e.negative_ids for e in mined(*examples, pick="sample", seed=2).examples]
    assert other != drawn


def test_first_candidates_are_skipped_and_positives_do_not_count() -> None:
    result = mined(Example("q", "what?", positive_ids=("p1",)), skip_top=2)
    assert result.examples[0].negative_ids == ("p3", "p4", "p5")
    assert result.dropped == [{POSITIVE: ["p1"], TOP: ["p0", "p2"]}]


def test_too_few_found_by_the_first_stage_is_a_reason_of_its_own() -> None:
    result = mined(Example("q", "what?", positive_ids=("p0",)), n=12)
    assert result.too_few == {"q": {UNRANKED: 3, POSITIVE: 1}}
    assert result.causes == {UNRANKED: 1}


ANSWERED = CORPUS | {"p0": Passage("p0", LONG), "p2": Passage("p2", "One fuse of Twelve  Volts!")}


@pytest.mark.parametrize(
    ("answers", "out"),
    [
        (("twelve volts",), ["p2"]),
        (("The twelve volts.",), ["p2"]),
        (("no such thing", "of twelve volts"), ["p2"]),
        (("fuse",), []),  # one word
        (("the fuse",), []),
        (("passage number",), []),  # common: in seven passages
        (("volts twelve",), []),
        ((), []),
    ],
)
def test_candidates_that_contain_a_specific_answer_are_dropped(
    answers: tuple[str, ...], out: list[str]
) -> None:
    example = Example("q", "what?", answers, ("p0",))
    result = mined(example, corpus=ANSWERED)
    assert result.dropped[0].get(ANSWER, []) == out
    assert set(out).isdisjoint(result.examples[0].negative_ids)
    assert ANSWER not in mined(example, corpus=ANSWERED, same_answer=False).totals


def test_an_answer_that_stands_in_the_question_tells_nothing() -> None:
    example = Example("q", "is it twelve volts or six?", ("twelve volts",), ("p0",))
    assert ANSWER not in mined(example, corpus=ANSWERED).totals


def logits(**of: float) -> Callable[..., list[dict[str, float]]]:
    """Return a reranker that gives each passage a fixed logit, 0 where none is named."""
    return lambda asked: [{i: of.get(i, 0.0) for i in ids} for _, ids in asked]


def test_what_a_reranker_puts_near_the_lowest_positive_is_dropped_and_scores_stay() -> None:
    # the lowest positive has 4, the limit is 4 - 3 = 1: p1 and p4 are above, p3 is on it
    rescore = logits(p0=9.0, p2=4.0, p1=1.1, p3=1.0, p4=7.5, p5=-8.25)
    example = Example("q", "what?", positive_ids=("p0", "p2"), scores={"p8": 1.0})
    result = mined(example, rescore=rescore, margin=3.0)
    assert result.examples[0].negative_ids == ("p3", "p5", "p6")
    assert result.dropped[0][RERANKED] == ["p1", "p4"]
    scores = {"p0": 9.0, "p2": 4.0, "p3": 1.0, "p5": -8.25, "p6": 0.0}
    assert result.examples[0].scores == scores


def test_a_reranker_without_a_margin_only_scores() -> None:
    example = Example("q", "what?", positive_ids=("p8",))
    result = mined(example, rescore=logits(p0=9.0))
    assert result.examples[0].negative_ids == ("p0", "p1", "p2")
    assert result.examples[0].scores == {"p8": 0.0, "p0": 9.0, "p1": 0.0, "p2": 0.0}


def test_no_more_is_scored_than_is_wanted() -> None:
    asked: list[list[str]] = []

    def rescore(pairs: Sequence[tuple[str, Sequence[str]]]) -> list[dict[str, float]]:
        asked.extend(list(ids) for _, ids in pairs)
        return logits(p8=5.0, p1=5.0)(pairs)

    mined(Example("q", "what?", positive_ids=("p8",)), rescore=rescore, margin=1.0)
    assert asked == [["p8", "p0", "p1", "p2"], ["p3"]]


def test_if_all_candidates_are_dropped_the_example_stays_and_the_reason_is_told() -> None:
    example = Example("q", "what?", positive_ids=("p8",))
    result = mined(example, rescore=logits(), margin=0.5)
    assert result.examples[0].negative_ids == ()
    assert result.too_few == {"q": {RERANKED: 8, POSITIVE: 1}}
    assert result.causes == {RERANKED: 1}


def test_scores_of_passages_that_are_no_longer_named_do_not_stay() -> None:
    example = Example(
        "q", "?", positive_ids=("p0",), negative_ids=("p8",), scores={"p0": 1, "p8": 2}
    )
    assert mined(example).examples[0].scores == {"p0": 1}


def test_a_corpus_of_one_passage_gives_nothing_and_says_so() -> None:
    corpus = {"p0": CORPUS["p0"]}
    result = mined(Example("q", "what?", positive_ids=("p0",)), corpus=corpus)
    assert result.examples[0].negative_ids == ()
    assert result.too_few == {"q": {UNRANKED: 2, POSITIVE: 1}}


def test_a_corpus_of_near_duplicates_gives_no_negatives() -> None:
    corpus = {i: Passage(i, f"{LONG} {i}") for i in CORPUS}
    result = mined(Example("q", LONG, (), ("p0",)), corpus=corpus)
    assert result.too_few == {"q": {DUPLICATE: 8, POSITIVE: 1}}


def test_rounds_of_many_questions_equal_those_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    examples = [Example(f"q{i}", f"what {i}?", positive_ids=(f"p{i % 9}",)) for i in range(30)]
    rescore = logits(p1=3.0, p4=2.0)
    together = mined(*examples, rescore=rescore, margin=1.0)
    monkeypatch.setattr(negatives, "_BLOCK", 4)
    assert mined(*examples, rescore=rescore, margin=1.0) == together


def test_mining_again_is_by_the_encoder_as_it_is_now_and_leaves_it_training(
    tiny_encoder: Path,
) -> None:
    encoder = Encoder.load(str(tiny_encoder)).train()
    topics = ["fuse", "relay", "valve", "pump", "sensor"]
    corpus = {t: Passage(t, f"the {t} holds {i} volts") for i, t in enumerate(topics)}
    examples = [Example(f"q-{t}", f"what does the {t} hold", (), (t,)) for t in topics]
    rules = Rules(n=2, depth=3, max_share=None)
    found = remine(encoder, examples, corpus, rules)
    assert encoder.training
    vectors = encode(encoder, [p.text for p in corpus.values()], "passage")
    for example, query in zip(
        found.examples, encode(encoder, [e.question for e in examples], "query"), strict=True
    ):
        nearest = [topics[i] for i in np.argsort(-(vectors @ query))[:3]]
        expected = [t for t in nearest if t not in example.positive_ids][:2]
        assert list(example.negative_ids) == expected
    with torch.no_grad():
        encoder.model.embeddings.word_embeddings.weight.mul_(-1)
    assert remine(encoder, examples, corpus, rules).examples != found.examples


def test_cosines_are_of_the_rows_asked_for_whatever_the_vectors_lengths(tiny_encoder: Path) -> None:
    encoder = Encoder.load(str(tiny_encoder), EncoderOptions(normalize=False))
    texts = {i: Passage(i, f"the {i} opens") for i in ("fuse", "relay", "valve")}
    index = build_index(encoder, texts, "")
    asked = KnownQueries(encoder, index, ["the red fuse", "the red fuse", "a pump"])
    query = encode(encoder, ["a pump"], "query")[0]
    rows = index.vectors[[2, 0]]
    expected = [float(r @ query / np.linalg.norm(r) / np.linalg.norm(query)) for r in rows]
    assert asked.cosine("a pump", ["valve", "fuse"]).tolist() == pytest.approx(expected, abs=1e-6)
