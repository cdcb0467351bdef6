"""The data card: its numbers, and its samples, drawn the same each time."""

from ragkit.data.schema import Example, Passage
from ragkit.qa.card import data_card

CORPUS = {
    p.id: p
    for p in (
        Passage("a1", "The B200 takes 24 V.", title="B200", doc_id="a"),
        Passage("a2", "The B200 holds 72 hours.", title="B200", doc_id="a"),
        Passage("b1", "The B400 takes 48 V.", doc_id="b"),
    )
}
SPLITS = {
    "train": [
        Example("1", "What does a B200 take?", ("24 V",), ("a1",)),
        Example("2", "How long does a B200 hold?", ("72 hours",), ("a2",)),
    ],
    "dev": [],
    "test": [Example("3", "What does a B400 take?", (), ("b1",))],
}
FUNNEL = {"generated": 1_234, "kept": 3}


def card(splits: dict[str, list[Example]] = SPLITS, seed: int = 0) -> str:
    return data_card("the heuristic teacher", CORPUS, splits, FUNNEL, ["One note."], seed)


def test_the_counts_of_corpus_splits_and_funnel_are_on_the_card() -> None:
    text = card()
    assert "3 passages of 2 documents; questions by the heuristic teacher." in text
    assert "| train | 2 | 2 | 1 |" in text
    assert "| dev | 0 | 0 | 0 |" in text
    assert "| test | 1 | 1 | 1 |" in text
    assert "| generated | 1,234 |\n| kept | 3 |" in text
    assert "\n- One note.\n" in text


def test_few_questions_are_all_shown_with_answer_and_passage() -> None:
    text = card()
    for examples in SPLITS.values():
        for example in examples:
            assert f"**{example.question}**" in text
    assert "24 V" in text
    assert "(no answer)" in text
    assert "*B200*: 'The B200 takes 24 V.'" in text
    assert "*b1*: 'The B400 takes 48 V.'" in text  # without a title, its id


def test_ten_of_many_questions_are_drawn_by_the_seed() -> None:
    many = [Example(str(i), f"Question number {i}?", ("24 V",), ("a1",)) for i in range(50)]
    first, again, other = (card({"train": many}, seed) for seed in (1, 1, 2))
    assert first.count("**Question number") == 10
    assert first == again != other


def test_no_questions_make_a_card_without_samples() -> None:
    assert "**" not in card({"train": []})
