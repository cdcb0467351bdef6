"""Where answers stand: letter by letter, in any case, by words, nearest, and nowhere."""

import numpy as np
import pytest

from ragkit.data.schema import Example, Passage
from ragkit.evaluation.answers import token_f1
from ragkit.training.spans import find_targets, nearest, occurrences, run_scores

TEXT = "In 2008 the Relay (type 12A) closed. A relay closes in 2008 volts, said U.S. staff."


def told(answer: str, text: str = TEXT) -> list[str]:
    return [text[start:end] for start, end in occurrences(answer, text)]


def asked(*answers: str, **changes: object) -> Example:
    fields = {"answers": answers, "positive_ids": ("p",), **changes}
    return Example("q", "When did the relay close?", **fields)  # type: ignore[arg-type]


def test_every_occurrence_as_it_is_written_is_found() -> None:
    assert occurrences("2008", TEXT) == [(3, 7), (TEXT.rindex("2008"), TEXT.rindex("2008") + 4)]
    assert told("relay") == ["relay"], "as written, though another stands there in another case"


def test_where_it_is_not_written_so_the_case_does_not_matter() -> None:
    assert told("RELAY") == ["Relay", "relay"]


def test_an_answer_is_not_found_within_a_word() -> None:
    assert told("lay") == [] and told("clos") == [] and told("12") == []
    assert told("(type 12A)") == ["(type 12A)"]


def test_scripts_without_spaces_have_no_words_to_be_within() -> None:
    assert told("北京", "他在北京市工作") == ["北京"]


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("relay type 12A", "Relay (type 12A"),
        ("the 2008 volts", "2008 volts"),
        ("us staff", "U.S. staff"),
        ("12a closed!", "12A) closed"),
    ],
)
def test_else_it_is_found_by_its_normalised_words_without_punctuation_around(
    answer: str, found: str
) -> None:
    assert told(answer) == [found]


@pytest.mark.parametrize("answer", ["the", "!", "volts 2008"])
def test_what_has_no_words_or_other_words_is_nowhere(answer: str) -> None:
    assert told(answer, "Relays close.") == []


def test_the_scores_of_runs_are_the_token_f1_of_each() -> None:
    words, reference = ["red", "pump", "red", "valve", "opens", "red"], ["red", "red", "valve"]
    scores = run_scores(words, reference)
    for i in range(6):
        for j in range(6):
            run, whole = " ".join(words[i : j + 1]), " ".join(reference)
            assert scores[i, j] == pytest.approx(token_f1(run, [whole]) if run else 0.0)
    assert np.unravel_index(scores.argmax(), scores.shape) == (0, 3)
    assert scores[0, 3] == pytest.approx(6 / 7)


def test_the_nearest_words_have_the_best_f1() -> None:
    text = "The pump, which is red, stops after 30 seconds; the valve opens."
    score, (start, end) = nearest("it stops after thirty seconds", text)
    assert text[start:end] == "stops after 30 seconds"
    assert score == pytest.approx(2 * 3 / (4 + 5))


def test_the_nearest_to_a_long_answer_are_whole_sentences() -> None:
    text = "Check the fuse. The pump stops after thirty seconds, then the red light is on. Wait."
    answer = "after about thirty seconds the pump stops and then the red light goes on again today"
    score, (start, end) = nearest(answer, text)
    assert text[start:end] == "The pump stops after thirty seconds, then the red light is on."
    assert score == pytest.approx(token_f1(text[start:end], [answer]))


def test_nothing_is_nearest_to_an_answer_without_words() -> None:
    assert nearest("the", "a pump") == (0.0, (0, 0))


P = Passage("p", "The relay closed in May 2008. In May 2008 it rained.", title="Relay")
Q = Passage("q", "Nothing was open in 2008, or in may 2008.")


def test_all_references_are_targets_in_a_positive() -> None:
    found = find_targets(asked("2008", "May 2008"), [P])
    assert found.how == "verbatim"
    assert [P.text[a:b] for a, b in found.places[0]] == ["May 2008", "2008", "May 2008", "2008"]


def test_in_another_passage_a_specific_reference_is_a_target_and_a_single_word_is_not() -> None:
    found = find_targets(asked("2008"), [Q, P])
    assert (found.places[0], len(found.places[1])) == ((), 2)
    found = find_targets(asked("May 2008"), [Q, P])
    assert [Q.text[a:b] for a, b in found.places[0]] == ["may 2008"]
    found = find_targets(asked("relay close"), [Passage("r", "a relay close by"), P])
    assert found.places[0] == (), "all words are those of the question"


def test_what_stands_nowhere_word_for_word_is_the_nearest_of_the_positives() -> None:
    other = Passage("p2", "It rained on the relay.")
    found = find_targets(
        asked("it was closed in spring", "closed during May 2008", positive_ids=("p2", "p")),
        [other, Q, P],
    )
    assert (found.how, found.places[:2]) == ("nearest", ((), ()))
    assert [P.text[a:b] for a, b in found.places[2]] == ["closed in May 2008"]


def test_what_comes_near_to_nothing_is_nowhere() -> None:
    for example in (asked("when the fuse blew"), asked()):
        assert find_targets(example, [P]).how == "nowhere"


def test_an_unanswerable_question_has_no_answer_whatever_stands_there() -> None:
    example = asked("May 2008", positive_ids=(), answerable=False)
    found = find_targets(example, [P, Q])
    assert (found.how, found.places) == ("none", ((), ()))


def test_without_its_positives_a_question_has_no_answer_unless_another_passage_has_it() -> None:
    assert find_targets(asked("2008"), [Q]).how == "none"
    assert find_targets(asked("May 2008"), [Q]).how == "verbatim"
    assert find_targets(asked("2008", positive_ids=()), [Q]).how == "nowhere", "nobody knows"
