"""The data card: its numbers, and its samples, drawn the same each time."""

from typing import Any

from ragkit.data.schema import Example, Passage, Turn
from ragkit.qa.card import Samples, Tally, data_card

CORPUS = {
    p.id: p
    for p in (
        Passage("a1", "The B200 takes 24 V.", title="B200", doc_id="a"),
        Passage("a2", "The B200 holds 72 hours.", title="B200", doc_id="a"),
        Passage("b1", "The B400 takes 48 V.", doc_id="b"),
    )
}
TURNS = (Turn("user", "What does a B200 take?"), Turn("assistant", "24 V."))
SPLITS = {
    "train": [
        Example("1", "What does a B200 take?", ("24 V",), ("a1",),
                meta={"style": "factoid", "doc_id": "a"}),
        Example("2", "How long does a B200 hold?", ("72 hours",), ("a2", "b1"),
                meta={"style": "factoid", "doc_id": "a"}),
        Example("4", "And how long?", ("72 hours",), ("a2",), history=TURNS,
                meta={"style": "conversation", "doc_id": "a"}),
        Example("5", "Who makes the B400?", answerable=False,
                meta={"style": "unanswerable", "doc_id": "b", "about": "b1"}),
    ],
    "dev": [],
    "test": [Example("3", "What does a B400 take?", (), ("b1",), meta={"doc_id": "b"})],
}  # fmt: skip
FUNNEL = {"generated": 1_234, "leak": 0, "kept": 3}


def card(splits: dict[str, list[Example]] = SPLITS, seed: int = 0, costs: Any = None) -> str:
    tallies, samples = {name: Tally() for name in splits}, Samples(seed)
    for name, examples in splits.items():
        for example in examples:
            tallies[name].add(example)
            samples.add(example)
    return data_card(
        "The title.", CORPUS, tallies, FUNNEL, costs or {}, ["One note."], samples.drawn
    )


def test_the_counts_of_splits_and_funnel_are_on_the_card() -> None:
    text = card()
    assert text.startswith("# Data card\n\nThe title.\n")
    # questions, unanswerable, follow-ups, passages, documents, styles
    row = "| train | 4 | 1 | 1 | 3 | 2 | factoid 2, conversation 1, unanswerable 1 |"
    assert row in text
    assert "| dev | 0 | 0 | 0 | 0 | 0 |  |" in text
    assert "| test | 1 | 0 | 0 | 1 | 1 |  1 |" in text
    assert "| generated | 1,234 |\n| kept | 3 |" in text
    assert "\n- One note.\n" in text


def test_few_questions_are_all_shown_with_what_precedes_answer_and_passage() -> None:
    text = card()
    for examples in SPLITS.values():
        for example in examples:
            assert f"**{example.question}**" in text
    assert "user: What does a B200 take?  \nassistant: 24 V.  \n**And how long?**  \n72 h" in text
    assert "**Who makes the B400?**  \n(no answer)  \n*b1*: The B400 takes 48 V." in text
    assert "*B200*: The B200 takes 24 V.\n" in text


def test_a_long_passage_is_cut_and_its_lines_are_one() -> None:
    long = Passage("a1", "One line\nand " + "x" * 300)
    example = Example("1", "What?", ("So",), ("a1",))
    tally = Tally()
    tally.add(example)
    text = data_card("", {"a1": long}, {"train": tally}, {}, {}, [], [example])
    assert f"*a1*: One line and {'x' * 187}…\n" in text


def test_ten_of_many_questions_are_drawn_by_the_seed() -> None:
    many = [Example(str(i), f"Question number {i}?", ("24 V",), ("a1",)) for i in range(50)]
    first, again, other = (card({"train": many}, seed) for seed in (1, 1, 2))
    assert first.count("**Question number") == 10
    assert first == again != other


def test_each_of_many_questions_has_the_same_chance_to_be_drawn() -> None:
    drawn = [0] * 40
    for seed in range(1_000):
        samples = Samples(seed)
        for i in range(40):
            samples.add(Example(str(i), "?"))
        for example in samples.drawn:
            drawn[int(example.id)] += 1
    # 1,000 draws with a chance of a quarter: 250, and four standard deviations of 13.7
    assert all(195 <= count <= 305 for count in drawn)


def test_no_questions_make_a_card_without_samples() -> None:
    text = card({"train": []})
    assert "**" not in text
    assert "## 0 random samples" in text


def test_what_models_cost_is_on_the_card_by_their_work() -> None:
    one = {"model": "m", "answers": 1_200, "prompt_tokens": 34_000, "completion_tokens": 5,
           "cost_usd": 0.12345}  # fmt: skip
    text = card(costs={"questions": one, "critic": {**one, "cost_usd": None}})
    assert "| questions | m | 1,200 | 34,000 | 5 | 0.1235 |" in text
    assert "| critic | m | 1,200 | 34,000 | 5 | unknown |" in text
    assert "What it cost" not in card()
