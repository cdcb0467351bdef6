"""The type of an answerer, where its model's folder says how it was trained."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ragkit.data.files import write_json, write_jsonl
from ragkit.models.cards import Card, write_card

Command = Callable[..., Any]


@pytest.fixture
def trained(tmp_path: Path) -> Callable[[str], str]:
    """Make the run directory of a generator that was trained by a method."""

    def make(method: str) -> str:
        folder = tmp_path / "runs" / method / "model"
        folder.mkdir(parents=True)
        write_json(folder / "config.json", {})
        write_card(folder, Card(method))
        return str(folder.parent)

    return make


@pytest.fixture
def examples(tmp_path: Path) -> str:
    write_jsonl(tmp_path / "corpus.jsonl", [{"id": "p", "text": "A fuse holds 12 volts."}])
    file = tmp_path / "test.jsonl"
    write_jsonl(file, [{"id": "q", "question": "what holds 12 volts?", "positive_ids": ["p"]}])
    return str(file)


def chosen(ragkit: Command, *arguments: str) -> dict[str, Any]:
    """The configuration that a dry run prints."""
    done = ragkit(*arguments, "--dry-run")
    assert done.code == 0, done.err
    return dict(yaml.safe_load(done.out))


@pytest.mark.parametrize(
    ("method", "type_"), [("sft", "hf"), ("swr", "hf"), ("fid", "fid"), ("reader", "reader")]
)
def test_the_card_of_a_model_names_the_type(
    method: str, type_: str, ragkit: Command, examples: str, trained: Callable[[str], str]
) -> None:
    model = trained(method)
    found = chosen(ragkit, "eval-e2e", examples, "-m", model)["answerer"]
    assert (found["type"], found["model"]) == (type_, model)
    again = chosen(ragkit, "eval-e2e", examples, "-m", model, "--answerer", type_)["answerer"]
    assert again == found


def test_without_a_card_the_model_is_the_encoder_of_extractive(
    ragkit: Command, examples: str, tiny_encoder: Path
) -> None:
    found = chosen(ragkit, "eval-e2e", examples, "-m", str(tiny_encoder))["answerer"]
    assert found["type"] == "extractive"
    assert chosen(ragkit, "eval-e2e", examples)["answerer"]["type"] == "extractive"


@pytest.mark.parametrize("given", ["hf", "fid", "extractive"])
def test_a_type_that_does_not_fit_the_model_is_one_message(
    given: str, ragkit: Command, examples: str, trained: Callable[[str], str]
) -> None:
    model = trained("reader")
    done = ragkit("eval-e2e", examples, "-m", model, "--answerer", given)
    assert done.code == 1
    assert (
        f"answerer: type: {given} does not fit {model}, which was trained by method reader: "
        in (done.err)
    )
    assert "leave the type out, or give reader" in done.err
    assert "Traceback" not in done.err


def test_keys_of_another_type_are_still_told(
    ragkit: Command, examples: str, trained: Callable[[str], str]
) -> None:
    done = ragkit("eval-e2e", examples, "-m", trained("sft"), "--set", "answerer.n_sentences=2")
    assert "answerer.n_sentences: unknown key" in done.err


def test_the_answerers_of_a_grid_are_typed_by_their_cards_too(
    ragkit: Command, examples: str, trained: Callable[[str], str]
) -> None:
    model = trained("reader")
    found = chosen(ragkit, "attribute", examples, "--set", f"answerers.mine.model={model}")
    assert found["answerers"]["mine"]["type"] == "reader"
    without = ragkit("attribute", examples, "--set", "answerers.mine.model=some/model")
    assert "answerers.mine.type: missing; which kind is it?" in without.err
