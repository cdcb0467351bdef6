"""init-model: a corpus into a model folder that others load, and what is said of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from ragkit.config.answering import HfAnswerer
from ragkit.data.files import read_json
from ragkit.models.generator import Generator
from ragkit.stages import STAGES

SMALL = {"hidden_size": 32, "layers": 1, "heads": 2}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.csv"
    rows = [f"p{n},Pump {n},The pump draws {n}.5 A and stops at night." for n in range(20)]
    path.write_text("\n".join(["id,title,text", *rows]) + "\n")
    return path


def said(path: Path) -> list[str]:
    return str(STAGES["init-model"].load().show(path)).splitlines()


@pytest.mark.parametrize("kind", ["causal", "t5"])
def test_a_run_has_a_model_that_generates(
    kind: str, stage: Callable[..., Path], corpus: Path, tmp_path: Path, log_lines: list[str]
) -> None:
    architecture = {"type": kind, "vocabulary": 300, **SMALL}
    path = stage(
        "init-model", input=str(corpus), architecture=architecture, output=str(tmp_path / "run")
    )
    made = read_json(path / "initial.json")
    assert (made["type"], made["encoder"], made["vocabulary"]) == (kind, None, 300)
    assert (made["corpus"]["texts"], made["corpus"]["words"]) == (20, 20 * 11)
    assert not [line for line in log_lines if "vocabulary" in line]
    assert said(path)[2] == (
        f"It knows nothing at all: train it with `ragkit train-generator EXAMPLES --method sft "
        f"-m {path} --set loop.learning_rate=1e-3`"
    )
    generator = Generator.load(HfAnswerer(type="hf", model=str(path), max_new_tokens=4))
    assert len(generator.generate(["The pump", "At night it stops"])) == 2


def test_titles_are_part_of_what_the_tokenizer_learns(
    stage: Callable[..., Path], corpus: Path, tmp_path: Path
) -> None:
    values = {"input": str(corpus), "architecture": {"type": "causal", **SMALL}}
    path = stage("init-model", **values, output=str(tmp_path / "run"))
    assert "Pump" in AutoTokenizer.from_pretrained(path / "model").get_vocab()


def test_a_corpus_too_small_for_the_vocabulary_is_said(
    stage: Callable[..., Path], corpus: Path, tmp_path: Path, log_lines: list[str]
) -> None:
    values = {"input": str(corpus), "architecture": {"type": "causal", **SMALL}}
    path = stage("init-model", **values, output=str(tmp_path / "run"))
    size = read_json(path / "initial.json")["vocabulary"]
    assert 259 < size < 400
    assert f"the vocabulary has {size} tokens, not 4096" in "\n".join(log_lines)


def test_a_warm_start_says_what_it_begins_from(
    stage: Callable[..., Path], corpus: Path, tmp_path: Path, tiny_encoder: Path
) -> None:
    corpus.write_text(corpus.read_text() + "x,Odd,the pump © stops\n")
    path = stage(
        "init-model",
        input=str(corpus),
        architecture={"type": "encoder-decoder", "encoder": str(tiny_encoder)},
        output=str(tmp_path / "run"),
    )
    assert read_json(path / "initial.json")["corpus"]["unknown"] == 1
    lines = said(path)
    assert lines[0].startswith(f"{tiny_encoder} with a decoder made of its layers: ")
    assert lines[1].endswith(", 1 of them unknown")
    assert "has never written a word" in lines[2]
    generator = Generator.load(HfAnswerer(type="hf", model=str(path), max_new_tokens=4))
    assert len(generator.generate(["the pump", "it stops when the valve opens"])) == 2


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--set", "architecture.heads=3"], "heads: 3 do not divide hidden_size: 256"),
        (["--architecture", "bert"], "'bert' is not one of causal, t5, encoder-decoder"),
    ],
)
def test_mistakes_are_told_in_a_line(
    options: list[str], problem: str, ragkit: Callable[..., Any], corpus: Path
) -> None:
    outcome = ragkit("init-model", str(corpus), *options)
    assert outcome.code == 1
    assert problem in outcome.err
    assert len(outcome.err.splitlines()) == 1
