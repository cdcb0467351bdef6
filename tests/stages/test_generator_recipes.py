"""The recipes for generators hold together with the configuration of train-generator."""

from pathlib import Path

import pytest

from ragkit.config.load import build, merge, parse_set, read_yaml
from ragkit.stages import STAGES

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "configs" / "recipes" / "generator").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_for_a_generator_is_a_configuration(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = read_yaml(recipe)
    for name in ("train.jsonl", "corpus.jsonl", *source.values.get("mixture", {})):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    config = build(
        STAGES["train-generator"].load().Config, merge([source, parse_set("examples=train.jsonl")])
    )
    assert dict(config)["model"] == source.values["model"]
