"""Slices: which questions belong together, and which slices say nothing."""

import pytest

from ragkit.data.schema import Example, Turn
from ragkit.evaluation.leakage import Leakage
from ragkit.evaluation.slices import by_metadata, names_of, question_type, slices_of


def test_slices_by_metadata_name_key_and_value() -> None:
    examples = [
        Example("a", "?", meta={"kind": "how-to", "hard": True}),
        Example("b", "?", meta={"kind": "fact"}),
        Example("c", "?", meta={"kind": "fact", "hard": False}),
    ]
    assert by_metadata(examples, ["kind", "hard"]) == {
        "hard=(none)": ["b"],
        "hard=False": ["c"],
        "hard=True": ["a"],
        "kind=fact": ["b", "c"],
        "kind=how-to": ["a"],
    }
    assert by_metadata(examples, []) == {}


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("How many volts?", "how many"),
        ("In how long a time does it open?", "how long"),
        ("How do I open it?", "how"),
        ("Whom does it call?", "whom"),
        (" Is there a fuse?", "yes or no"),
        ("does it say what it holds", "yes or no"),
        ("Tell me WHY it stops", "why"),
        ("The fuse showed up", "other"),
        ("Wie viel Volt?", "other"),
        ("", "other"),
    ],
)
def test_the_word_that_asks_is_the_type(question: str, kind: str) -> None:
    assert question_type(question) == kind


def many(*kinds: str) -> list[Example]:
    return [Example(f"{k}-{i}", f"{k} is it?") for k in kinds for i in range(20)]


def test_questions_are_sliced_by_what_tells_them_apart() -> None:
    turns = (Turn("user", "a"), Turn("assistant", "b"))
    examples = [
        *many("what", "how"),
        Example("w", "why?", history=turns[:1]),
        Example("n", "where?", answerable=False, history=turns * 2),
    ]
    found = slices_of(examples)
    sizes = {name: len(ids) for name, ids in found.items()}
    assert sizes == {
        "answerable": 41, "unanswerable": 1, "first question": 40, "1-2 turns before": 1,
        "3+ turns before": 1, "asks how": 20, "asks what": 20, "asks other": 2,
    }  # fmt: skip
    assert names_of(found)["w"] == ["answerable", "1-2 turns before", "asks other"]


def test_what_all_questions_have_in_common_is_no_slice() -> None:
    assert slices_of(many("what")) == {}


def test_seen_documents_are_those_of_the_leakage() -> None:
    examples = [Example(i, "what?", positive_ids=("p",)) for i in "ab"] + [Example("c", "what?")]
    found = slices_of(examples, leakage=Leakage(seen=frozenset("a")))
    assert found == {"seen documents": ["a"], "unseen documents": ["b"]}
