"""What a dry run says of all that models are going to be asked, worked out by hand."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ragkit.errors import ConfigError
from ragkit.stages import qa_gen
from ragkit.stages.qa_gen import Config

PASSAGES = 8
Lines = Callable[..., list[str]]


@pytest.fixture
def lines(tmp_path: Path) -> Lines:
    """Estimate for a corpus of eight documents of a passage each; by default one style, n = 2."""
    rows = [f"Guide {i},The pump of kind {i} runs {i + 2} hours." for i in range(PASSAGES)]
    (tmp_path / "passages.csv").write_text("\n".join(["title,text", *rows]) + "\n")
    (tmp_path / "prices.yaml").write_text(
        "one: {input: 1000, output: 0}\ntwo: {input: 0, output: 1000}\n"
    )

    def make(**changes: Any) -> list[str]:
        values = {
            "input": str(tmp_path / "passages.csv"),
            "output": str(tmp_path / "run"),
            "prices": str(tmp_path / "prices.yaml"),
            "teacher": teacher("one"),
            "styles": ["factoid"],
            "unanswerable": 0,
            **changes,
        }
        if values["teacher"] is None:
            del values["teacher"], values["styles"], values["unanswerable"]
        return list(qa_gen.estimate(Config.model_validate(values)))

    return make


def teacher(model: str, **changes: Any) -> dict[str, Any]:
    return {"type": "openai", "model": model, "base_url": "http://127.0.0.1:9/v1", **changes}


def dollars(line: str) -> float:
    """Return the dollars in a line."""
    return float(re.findall(r"([\d.,]+) \$", line)[0].replace(",", ""))


def tokens(line: str) -> tuple[int, int]:
    """Return the tokens in and out in a line."""
    ((into, out),) = re.findall(r"about ([\d,]+) tokens in and ([\d,]+) out", line)
    return int(into.replace(",", "")), int(out.replace(",", ""))


def test_everything_that_is_asked_has_its_line_with_dollars_and_all_a_total(lines: Lines) -> None:
    found = lines(
        answers=teacher("two"), critic=teacher("one"), reading={"by": "teacher"},
        splits={"dev": 0, "test": 0},
    )  # fmt: skip
    head, questions, reading, answers, critic, total = found
    assert head == "8 passages, 8 requests"
    assert questions.startswith("questions: one: 8 requests, 0 of them in the journal; to ask: 8, ")
    assert answers.startswith("answers: two: 16 requests at the most, one for each question; ")
    assert critic.startswith("critic: one: 16 requests at the most, one for each question; ")
    assert reading.startswith(
        "reading texts: one: 8 requests, 0 of them in the journal; to ask: 8, "
    )
    # one costs 1,000 $ a million tokens in, two a million out; 60 tokens of an answer or judgement
    for line in (questions, critic, reading):
        assert dollars(line) == pytest.approx(tokens(line)[0] / 1000, abs=0.006)
    assert tokens(answers)[1] == tokens(critic)[1] == 16 * 60
    assert dollars(answers) == 0.96
    assert total.startswith("all together: 48 requests, ")
    assert dollars(total) == pytest.approx(sum(map(dollars, found[1:5])), abs=0.02)


def test_prompts_of_what_is_asked_later_hold_the_passage(lines: Lines) -> None:
    found = lines(answers=teacher("one"))
    longer = lines(answers=teacher("one"), prompts=None, styles=["factoid", "how-to"])
    assert tokens(longer[2])[0] == pytest.approx(2 * tokens(found[2])[0], abs=1)
    assert tokens(found[2])[0] > 16 * len("The pump of kind 1 runs 3 hours.") / 4


def test_the_critic_is_not_asked_about_test_questions(lines: Lines) -> None:
    found = lines(answers=teacher("one"), critic=teacher("one"), splits={"dev": 0, "test": 0.5})
    assert "16 requests at the most" in found[2]
    (count,) = re.findall(r"critic: one: (\d+) requests", found[3])
    assert 0 < int(count) < 16


def test_a_conversation_has_as_many_questions_as_turns(lines: Lines) -> None:
    (_, _, answers, _) = lines(answers=teacher("one"), styles=["conversation"], turns=5)
    assert "40 requests at the most" in answers


def test_a_model_without_price_is_named_beside_the_sum_of_the_others(lines: Lines) -> None:
    found = lines(answers=teacher("three"))
    assert "out, no price known, " in found[2]
    assert found[3].endswith(f"{dollars(found[1]):.2f} $ and what three costs: no price known")


def test_local_models_are_not_said_to_lack_a_price(lines: Lines) -> None:
    found = lines(answers={"type": "hf", "model": "local"})
    assert "price" not in "".join(found) and "out, 0.00 $, " in found[2]
    assert dollars(found[3]) == dollars(found[1])


def test_one_line_needs_no_total(lines: Lines) -> None:
    assert len(lines()) == 2


def test_rules_whose_questions_a_model_answers_are_estimated_too(lines: Lines) -> None:
    found = lines(teacher=None, answers=teacher("one"))
    assert found[1].startswith("answers: one: 24 requests at the most")


def test_rules_alone_have_nothing_to_estimate(lines: Lines) -> None:
    assert lines(teacher=None) == []


def test_a_price_that_a_limit_needs_is_missed_before_anything_is_asked(lines: Lines) -> None:
    with pytest.raises(ConfigError, match="max_cost: no price of 'three' is known"):
        lines(critic=teacher("three"), max_cost=1.0)
