"""Answer scores: SQuAD's by hand, ROUGE and BLEU against their packages."""

import random
import re
import string
from pathlib import Path

import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from ragkit.errors import DataError
from ragkit.evaluation.answers import (
    abstention,
    bleu,
    exact_match,
    normalize_answer,
    rouge,
    score_answer,
    token_f1,
)

DEMO = Path(__file__).parents[2] / "data" / "demo"


def sentences(seed: int, count: int) -> list[str]:
    rng = random.Random(seed)
    text = "the cats Were running_fast over a 3.5-inch disk, don't they? Generally it runs, ran Run"
    words = text.split(" ")
    return [" ".join(rng.choices(words, k=rng.randrange(1, 12))) for _ in range(count)]


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("The  Cat's\tpyjamas!", "cats pyjamas"),
        ("An apple a day, the best", "apple day best"),
        ("theatre and anaconda", "theatre and anaconda"),
        ("$3.50", "350"),
        ("state-of-the-art", "stateoftheart"),
        ("  ", ""),
        ("A", ""),
        ("«Ответ», да", "«ответ» да"),
        ("東京タワー。", "東京タワー。"),
        ("กรุงเทพฯ", "กรุงเทพฯ"),
    ],
)
def test_answers_are_normalised_as_by_squad(text: str, normalized: str) -> None:
    assert normalize_answer(text) == normalized


def test_two_spellings_of_one_accented_letter_are_equal() -> None:
    assert normalize_answer("Cafe\u0301") == normalize_answer("Café") == "café"


def test_an_article_with_a_combining_mark_is_no_article() -> None:
    assert normalize_answer("a\u0300 la carte") == "à la carte"
    assert normalize_answer("a\u0331 la carte") == "a\u0331 la carte"


def test_exact_match_takes_the_best_reference() -> None:
    assert exact_match("The Eiffel Tower.", ["Louvre", "eiffel tower"]) == 1.0
    assert exact_match("Eiffel", ["Louvre", "eiffel tower"]) == 0.0


@pytest.mark.parametrize(
    ("prediction", "reference", "equal"),
    [("!", "?", 0.0), ("the", "a", 0.0), (" ! ", "!", 1.0), ("", " ", 1.0), ("", "the", 0.0)],
)
def test_texts_of_which_nothing_is_left_match_only_as_written(
    prediction: str, reference: str, equal: float
) -> None:
    assert exact_match(prediction, [reference]) == equal
    assert token_f1(prediction, [reference]) == equal


@pytest.mark.parametrize("text", ["Москва", "東京", "القاهرة", "กรุงเทพฯ", "ไทย ลาว"])
def test_an_answer_in_another_script_matches_itself_and_no_other(text: str) -> None:
    scores = score_answer(text, [text], answerable=True, abstained=False)
    assert [scores[name] for name in ("em", "f1", "rouge_1", "rouge_l")] == [1.0] * 4
    other = score_answer("Ποτέ", [text], answerable=True, abstained=False)
    assert [other[name] for name in ("em", "f1", "rouge_1", "rouge_l")] == [0.0] * 4


def test_token_f1_is_that_worked_out_by_hand() -> None:
    # cat sat / black cat sat down: 2 shared, precision 2/2, recall 2/4.
    assert token_f1("The cat sat", ["A black cat sat down"]) == pytest.approx(2 / 3)
    # Words count as often as they stand in both: 1 shared of 3 and 1.
    assert token_f1("no no no", ["no"]) == pytest.approx(2 * (1 / 3) * 1 / (1 / 3 + 1))
    assert token_f1("dog", ["cat"]) == 0.0
    assert token_f1("the", ["cat"]) == 0.0
    assert token_f1("red cat", ["dog", "red car", "cat red"]) == 1.0


def test_rouge_equals_the_rouge_score_package_on_ascii_text() -> None:
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    demo = (DEMO / "passages.csv").read_text(encoding="utf-8")
    words = [word for word in demo.split() if word.isascii()]
    rng = random.Random(0)
    texts = [*sentences(0, 100), *(" ".join(words[i : i + 40]) for i in range(0, 6_000, 40))]
    for prediction in texts:
        references = rng.choices(texts, k=rng.randint(1, 3))
        expected = scorer.score_multi(references, prediction)
        assert rouge(prediction, references) == pytest.approx(
            {
                "rouge_1": expected["rouge1"].fmeasure,
                "rouge_2": expected["rouge2"].fmeasure,
                "rouge_l": expected["rougeL"].fmeasure,
            },
            abs=1e-12,
        )


def test_rouge_of_long_texts_that_share_every_other_word_is_that_worked_out_by_hand() -> None:
    ours = [f"w{i}" if i % 2 else f"x{i}" for i in range(300)]
    theirs = [f"w{i}" if i % 2 else f"y{i}" for i in range(300)]
    scores = rouge(" ".join(ours), [" ".join(theirs)])
    assert scores == pytest.approx({"rouge_1": 0.5, "rouge_2": 0.0, "rouge_l": 0.5})
    assert rouge(" ".join(ours), [" ".join(reversed(theirs))])["rouge_l"] == pytest.approx(1 / 300)


def squad_f1(prediction: str, reference: str) -> float:
    """Return F1 by the formula of SQuAD v1.1's script, where both texts have words."""

    def words(text: str) -> list[str]:
        text = "".join(c for c in text.lower() if c not in string.punctuation)
        return re.sub(r"\b(a|an|the)\b", " ", text).split()

    ours, theirs = words(prediction), words(reference)
    shared = sum(min(ours.count(word), theirs.count(word)) for word in set(ours))
    if not shared:
        return 0.0
    precision, recall = shared / len(ours), shared / len(theirs)
    return 2 * precision * recall / (precision + recall)


def test_f1_equals_the_formula_of_squad() -> None:
    for prediction, *references in zip(*(sentences(seed, 100) for seed in range(3)), strict=True):
        expected = max(squad_f1(prediction, reference) for reference in references)
        assert token_f1(prediction, references) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("empty", ["", " ", "\n"])
def test_an_empty_answer_scores_zero_on_everything(empty: str) -> None:
    scores = score_answer(empty, ["the cat"], answerable=True, abstained=False)
    assert [scores[name] for name in ("em", "f1", *rouge("", ["a"]))] == [0.0] * 5
    assert rouge("cat", [empty]) == {"rouge_1": 0.0, "rouge_2": 0.0, "rouge_l": 0.0}
    assert rouge("", [empty]) == {"rouge_1": 0.0, "rouge_2": 0.0, "rouge_l": 0.0}


def test_rouge_takes_the_best_reference_for_each_measure_alone() -> None:
    # Reference 1 shares all words but no pair; reference 2 shares a pair of three words.
    scores = rouge("red green blue", ["blue green red", "red green lamps shine there"])
    assert scores["rouge_1"] == 1.0
    assert scores["rouge_2"] == pytest.approx(2 * (1 / 2) * (1 / 4) / (1 / 2 + 1 / 4))
    assert scores["rouge_l"] == pytest.approx(2 * (2 / 3) * (2 / 5) / (2 / 3 + 2 / 5))


def test_rouge_stems_english_words_beside_words_of_other_scripts() -> None:
    assert rouge("Москва: cats running", ["москва cat run"])["rouge_2"] == 1.0
    assert rouge("naïve", ["na ve"])["rouge_1"] == 0.0


def test_bleu_equals_sacrebleu() -> None:
    predictions, first, second = sentences(0, 40), sentences(1, 40), sentences(2, 40)
    ours = bleu(predictions, [list(pair) for pair in zip(first, second, strict=True)])
    assert ours == sacrebleu.corpus_bleu(predictions, [first, second]).score
    assert ours > 0


def test_bleu_takes_references_of_uneven_number() -> None:
    predictions = ["the cat sat on the mat today", "it rains in the north of Spain"]
    references = [["the cat sat on the mat"], ["", "it pours in Spain", "it rains in the north"]]
    expected = sacrebleu.corpus_bleu(
        predictions,
        [["the cat sat on the mat", "it pours in Spain"], [None, "it rains in the north"]],
    )
    assert bleu(predictions, references) == expected.score
    assert bleu(["a perfect answer of six words"], [["a perfect answer of six words"]]) == (
        pytest.approx(100.0)
    )


def test_bleu_does_not_take_a_missing_reference_for_the_closest_in_length() -> None:
    long = "the cat sat on the mat"
    one = sacrebleu.corpus_bleu(["the cat", long], [[long, long]]).score
    assert 0 < one < 100
    assert bleu(["the cat", long], [[long], [long, long]]) == pytest.approx(one)
    assert bleu(["the cat", long], [[long, "", " "], [long]]) == pytest.approx(one)


def test_bleu_says_which_question_has_no_reference() -> None:
    with pytest.raises(DataError, match=r"references\[1\]"):
        bleu(["a", "b"], [["a"], [""]])
    with pytest.raises(DataError, match="predictions 2, references 1"):
        bleu(["a", "b"], [["a"]])
    with pytest.raises(DataError, match="at least one prediction"):
        bleu([], [])


def test_an_answered_question_has_every_score() -> None:
    assert score_answer("the cat", ["cat", "dog"], answerable=True, abstained=False) == {
        "em": 1.0,
        "f1": 1.0,
        "rouge_1": pytest.approx(2 / 3),
        "rouge_2": 0.0,
        "rouge_l": pytest.approx(2 / 3),
        "abstained": 0.0,
        "answerable": 1.0,
    }


def test_abstaining_on_an_answerable_question_scores_zero_on_everything() -> None:
    scores = score_answer("cat", ["cat"], answerable=True, abstained=True)
    assert scores.pop("abstained") == scores.pop("answerable") == 1.0
    assert scores == dict.fromkeys(("em", "f1", "rouge_1", "rouge_2", "rouge_l"), 0.0)


@pytest.mark.parametrize("abstained", [False, True])
def test_an_unanswerable_question_has_no_answer_scores(abstained: bool) -> None:
    scores = score_answer("cat", [], answerable=False, abstained=abstained)
    assert scores == {"abstained": float(abstained), "answerable": 0.0}


@pytest.mark.parametrize("abstained", [False, True])
def test_an_answerable_question_without_references_is_an_error(abstained: bool) -> None:
    with pytest.raises(DataError, match="no reference answer"):
        score_answer("cat", [], answerable=True, abstained=abstained)


def test_one_text_in_place_of_a_list_of_references_is_an_error() -> None:
    for score in (exact_match, token_f1, rouge):
        with pytest.raises(DataError, match="references is one text, 'cat'"):
            score("cat", "cat")


def test_abstention_counts_are_those_worked_out_by_hand() -> None:
    answerable = [True, True, False, False, False]
    abstained = [True, False, True, True, False]
    assert abstention(answerable, abstained) == {"precision": 2 / 3, "recall": 2 / 3}
    assert abstention([True, False], [False, False]) == {"precision": None, "recall": 0.0}
    assert abstention([True, True], [True, False]) == {"precision": 0.0, "recall": None}
    assert abstention([], []) == {"precision": None, "recall": None}


def test_abstention_refuses_lists_of_different_lengths() -> None:
    with pytest.raises(DataError, match="answerable 2, abstained 1"):
        abstention([True, False], [True])
