"""Option tables and starter files, of every command."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from ragkit.config import load
from ragkit.config.blocks import Block
from ragkit.config.describe import Option, option_table, options, starter
from ragkit.stages import STAGES

COMMANDS = [*STAGES, "run"]


def config_of(command: str) -> type[BaseModel]:
    if command == "run":
        from ragkit.stages import pipeline

        return pipeline.Config
    return STAGES[command].load().Config


@pytest.fixture
def required(tmp_path: Path) -> dict[str, Any]:
    """A value for every required key that any command has."""
    for name in ("passages.csv", "corpus.jsonl", "train.jsonl", "dev.jsonl"):
        (tmp_path / name).touch()
    return {
        "input": str(tmp_path / "passages.csv"),
        "format": "table",
        "examples": str(tmp_path / "train.jsonl"),
        "corpus": str(tmp_path / "corpus.jsonl"),
        "query": str(tmp_path / "train.jsonl"),
        "runs": [str(tmp_path)],
        "judge": {"type": "openai", "model": "m"},
        "steps": [{"id": "one", "run": "chunk"}],
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_a_starter_with_its_required_keys_filled_in_builds_the_defaults(
    command: str, required: dict[str, Any]
) -> None:
    model = config_of(command)
    source = load.parse_yaml(starter(model, command), f"{command}.yaml")
    wanted = {n: required[n] for n, info in model.model_fields.items() if info.is_required()}
    built = load.build(model, load.Source({**source.values, **wanted}, source.places))
    assert built == load.build(model, load.Source(wanted, {}))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_starter_has_every_key_and_marks_exactly_the_required_ones(command: str) -> None:
    model, text = config_of(command), starter(config_of(command), command)
    assert set(load.parse_yaml(text, "x.yaml").values) == set(model.model_fields)
    marked = set(re.findall(r"^(\w+):.*\(required\)$", text, re.MULTILINE))
    assert marked == {n for n, info in model.model_fields.items() if info.is_required()}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_a_command_is_described_and_listed_once(command: str) -> None:
    found = list(options(config_of(command)))
    assert [o.key for o in found if not o.description.strip()] == []
    names = [(o.key, o.of) for o in found]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_field_is_described_or_is_a_block_with_a_docstring(command: str) -> None:
    bare = [
        f"{model.__name__}.{name}"
        for model in _models(config_of(command))
        for name, info in model.model_fields.items()
        if not info.description and name not in ("type", "method") and not _inside(info.annotation)
    ]
    assert bare == []
    assert [m.__name__ for m in _models(config_of(command)) if not m.__dict__.get("__doc__")] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_row_of_an_option_table_has_four_cells(command: str) -> None:
    rows = option_table(config_of(command)).splitlines()
    assert len(rows) == 2 + len(list(options(config_of(command))))
    assert {len(re.split(r"(?<!\\)\|", row)) for row in rows} == {6}


class Wide(Block):
    """The wide kind."""

    type: Literal["wide"]
    width: float = Field(2.0, description="metres")


class Tall(Block):
    """The tall kind."""

    type: Literal["tall"]
    floors: int = Field(description="storeys")


class House(Block):
    """A house."""

    shape: Wide | Tall = Field(Wide(type="wide"), discriminator="type", description="its form")
    garden: Path | None = Field(None, description="a plan")
    colours: list[str] = Field(description="of the walls")


class Garden(Block):
    """A house that may have an annex."""

    annex: Wide | None = Field(None, description="unset: none is built")
    sheds: dict[str, Wide | Tall] = Field({}, description="by their names")


def test_a_union_is_unfolded_into_its_members_with_their_names() -> None:
    assert list(options(House)) == [
        Option("shape.type", "", "wide | tall", "`wide`", "its form"),
        Option("shape.width", "wide", "number", "`2.0`", "metres"),
        Option("shape.floors", "tall", "integer", "required", "storeys"),
        Option("garden", "", "path", "unset", "a plan"),
        Option("colours", "", "list of text", "required", "of the walls"),
    ]


def test_a_starter_says_kinds_defaults_and_meaning() -> None:
    assert starter(House, "build").splitlines()[1:] == [
        "shape:  # its form (types: wide, tall)",
        '  type: "wide"',
        "  width: 2.0  # metres",
        "garden: null  # a plan",
        "colours: []  # of the walls (required)",
    ]


def test_a_mapping_of_blocks_is_one_key() -> None:
    sheds = Option("sheds", "", "mapping of names to Wide | Tall", "`{}`", "by their names")
    assert sheds in list(options(Garden))
    assert "sheds: {}  # by their names" in starter(Garden, "build").splitlines()


def test_the_table_says_that_an_optional_block_is_unset() -> None:
    assert Option("annex", "", "Wide", "unset", "unset: none is built") in list(options(Garden))


def _models(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for info in model.model_fields.values():
        for inner in _inside(info.annotation):
            yield from _models(inner)


def _inside(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for part in getattr(annotation, "__args__", ()) for m in _inside(part)]
