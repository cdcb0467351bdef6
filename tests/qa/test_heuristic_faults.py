"""The heuristic teacher: what it must not ask, and how its questions come to stand alone."""

from __future__ import annotations

import pytest

from ragkit.qa.heuristic import generate
from ragkit.qa.heuristic.markup import flatten

KETTLE = "The kettle is a vessel that boils water for tea."
ASKED = ("What is the kettle in the Kettle Handbook?", "a vessel that boils water for tea")


def asked(text: str, title: str = "", n: int = 20) -> dict[str, str]:
    """Return {question: answer}."""
    return {pair.question: pair.answer for pair in generate(title, text, n)}


@pytest.mark.parametrize(
    ("title", "question"),
    [
        ("Kettle Handbook", "What is the default limit in the Kettle Handbook?"),
        ("Steam for kettles", 'What is the default limit in "Steam for kettles"?'),
        ("Creating a kettle", "What is the default limit when creating a kettle?"),
        (
            "Making Pots Look Like Pans",
            'What is the default limit in "Making Pots Look Like Pans"?',
        ),
        ("K400: a guide", "What is the default limit on the K400?"),
        ("Limits of default", "What is the default limit?"),
        ("pots/2017-kettles.md", "What is the default limit?"),
    ],
)
def test_a_question_names_its_document_once(title: str, question: str) -> None:
    text = "The default limit is 20 cups. Nothing more is known."
    assert asked(text, f"{title} > Limits") == {question: "20 cups"}


def test_the_topic_comes_first_where_a_condition_comes_last() -> None:
    text = "If the lid is open, the kettle stays cold and silent. It is so."
    question = 'In "Spouts of Steel", what happens if the lid is open?'
    assert asked(text, "Spouts of Steel") == {question: "the kettle stays cold and silent."}


def test_a_question_with_a_name_and_enough_words_stands_alone() -> None:
    text = "The boiler of the K400 drives the whistle of the office. So it is."
    assert "What does the boiler of the K400 drive?" not in asked(text, "Spouts of Steel")
    text = "The K400 boiler of Brindle drives the whistle of the office. So it is."
    assert "What does the K400 boiler of Brindle drive?" in asked(text, "Spouts of Steel")


@pytest.mark.parametrize(
    ("heading", "question"),
    [
        ("Motivation", "What is the motivation for loud whistles for kettles?"),
        ("Abstract", 'What is "Loud whistles for kettles" about?'),
        ("Performance", "How do loud whistles for kettles affect performance?"),
    ],
)
def test_a_section_of_any_document_is_asked_about_by_the_document(
    heading: str, question: str
) -> None:
    text = "Kettles boil over when nobody watches them. They whistle too late for most cooks."
    assert list(asked(text, f"Loud whistles for kettles > {heading}")) == [question]


def test_an_interviewers_question_names_the_company() -> None:
    text = "We wanted to buy a kettle in spring, as the old pot leaked. It was heavy."
    found = asked(text, "Interview with Acme > Why did you buy a kettle?")
    assert "Why did Acme buy a kettle?" in found


APARTS = {
    "an indented block after two colons": "Begin so::\n\n  tea is a drink of the house.\n\n",
    "a directive with its block": ".. note:: A lid is a part.\n   A spout is a part of it all.\n\n",
    "a link target": ".. _lid: A lid is a part of the whole thing.\n\n",
    "a footnote": ".. [1] A lid is a part of the whole thing.\n\n",
    "a field list": ":param lid: A lid is a part of the whole thing.\n\n",
    "a doctest": ">>> A lid is a part of the whole thing.\n\n",
    "a comment in code": "// A lid is a part of the whole thing.\n\n",
    "a mail-like header": "Pot: 7\nTitle: A lid\nAuthor: A. Cook\nStatus: Draft\nCreated: 2020\n\n",
    "a table drawn with lines": "====  =====\nA lid  is a part of the thing.\n====  =====\n\n",
    "the end of a fenced block": "lid is a part of the whole thing of clay.\n```\n\n",
}


@pytest.mark.parametrize("apart", APARTS.values(), ids=APARTS)
def test_code_and_apparatus_are_not_read(apart: str) -> None:
    assert asked(f"{apart}{KETTLE}\n", "Kettle Handbook") == dict([ASKED])


@pytest.mark.parametrize(
    "section", ["Acknowledgements", "References", "Copyright", "Change history"]
)
def test_sections_that_tell_of_the_document_itself_are_not_asked_about(section: str) -> None:
    assert asked(KETTLE, f"Kettle Handbook > {section}") == {}


def test_inline_markup_of_rest_leaves_the_words() -> None:
    text = (
        "The :func:`~shop.boil` call needs the `water heater <https://x.org/w>`_ of "
        "the ``Kettle`` class [3]_ in winter. So it is."
    )
    assert flatten(text, 0, len(text) - len(" So it is.")).words == (
        "The shop.boil call needs the water heater of the Kettle class in winter."
    )


def test_a_numbered_document_is_named_by_its_series() -> None:
    text = ":rfc:`2119` defines the words of the kettle contract. So it is."
    assert asked(text) == {"What does RFC 2119 define?": "the words of the kettle contract"}


def test_an_answer_does_not_cut_a_code_span_in_two() -> None:
    text = "The whistle of the kettle represents ``None`` or a ``Sound``. That is all."
    assert "``None`` or a ``Sound``" in asked(text).values()


def test_a_sentence_that_begins_with_code_is_not_part_of_the_answer_before() -> None:
    text = "The steam boiler drives the big whistle of the house. ``lid`` keeps it warm."
    assert asked(text) == {"What does the steam boiler drive?": "the big whistle of the house"}


def test_an_enumeration_is_not_cut_at_its_last_comma() -> None:
    text = "The steam kettle includes a lid, a spout, and the whistle of the shop. So it is."
    assert asked(text) == {
        "What does the steam kettle include?": "a lid, a spout, and the whistle of the shop"
    }


def test_the_words_of_a_standard_are_asked_in_lower_case() -> None:
    text = "A cup of the shop MUST NOT be painted in the colours of the house. So it is."
    assert asked(text) == {
        "What must not be painted in the colours of the house?": "A cup of the shop"
    }


def test_how_many_asks_for_the_whole_noun() -> None:
    text = "There are two main layouts for variable-sized boilers. So it is."
    assert asked(text) == {"How many main layouts are there for variable-sized boilers?": "two"}


REFUSED = {
    "praise is no definition": "The kettle is a great way to make tea for the whole house.",
    "a pronoun in the answer": "The steam kettle replaces this old thing of the house.",
    "a document that speaks of itself": "The PEP describes the boilers of the old steam kettle.",
    "an adverb for a subject": "Always keep the lid of the kettle on the table of the house.",
    "a contraction": "The kettles won't be discard any sooner than the boilers of the house.",
    "one word for an answer": "Kettles can prevent the cold of winter in the old house.",
    "the rest of a comparison": "Even more subtle is the effect of the lid on the old kettle.",
    "a personal feeling": "The Kettle Team is proud to announce the new boiler of the house.",
    "a clause for an object": "The cook of the house decides whether the kettle is warm.",
}


@pytest.mark.parametrize("sentence", REFUSED.values(), ids=REFUSED)
def test_nothing_is_better_than_nonsense(sentence: str) -> None:
    assert asked(f"{sentence} So it is.", "Kettle Handbook") == {}


@pytest.mark.parametrize(
    ("path", "opening"),
    [
        ("Closing words", "We are really excited about kettles and the tea they make for all."),
        ("Introducing the kettle", "We are happy that you can use the kettle of the house now."),
        ("Rejected ideas > Adding a spout", "You can add a spout to the kettle of the old house."),
        ("Adding a spout", "We considered a second spout for the kettle, too heavy for cooks."),
    ],
)
def test_not_every_gerund_is_something_to_do(path: str, opening: str) -> None:
    found = asked(f"{opening} So it is.", f"Kettle Handbook > {path}")
    assert not [question for question in found if question.startswith("How do I")]


def test_the_later_part_of_a_section_does_not_answer_its_heading() -> None:
    text = "Cups were washed by hand in those days. Nobody minded the cold water much."
    assert asked(text, "Kettle Handbook > Changing the filter") == {}


def test_rows_of_a_table_whose_header_was_cut_off_are_not_asked_about() -> None:
    rows = "| Lid | Steel |\n| Spout | Tin |\n| Handle | Wood |\n"
    assert asked(rows, "Kettle Handbook") == {}
    whole = asked(f"| Part | Material |\n|---|---|\n{rows}", "Kettle Handbook")
    assert whole["What is the material of Spout in the Kettle Handbook?"] == "Tin"


def test_a_gap_is_left_only_for_what_the_passage_alone_tells() -> None:
    text = "We waited for the train to the old harbour with everyone. Bye."
    assert asked(text) == {}
    text = "We waited for the train to the old harbour for 20 minutes with everyone. Bye."
    assert list(asked(text).values()) == ["20 minutes"]


def test_a_column_that_is_no_noun_is_quoted() -> None:
    rows = "| Role | Can change | Doors |\n|---|---|---|\n| Cook | The lid | two |\n"
    found = asked(rows, "Kettle Handbook")
    assert found['What is given as "can change" for Cook in the Kettle Handbook?'] == "The lid"
    assert found["What are the doors of Cook in the Kettle Handbook?"] == "two"
