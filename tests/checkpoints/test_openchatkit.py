"""OpenChatKit's layer-split models, put together by hand."""

import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from ragkit.checkpoints.layouts import layout_of
from ragkit.errors import ModelError, RunError
from ragkit.stages.convert import Config, convert

KINDS = ("gpt_neox", "llama")
HEADS = {"gpt_neox": "embed_out.weight", "llama": "lm_head.weight"}
EMBEDDINGS = {"gpt_neox": "gpt_neox.embed_in.weight", "llama": "model.embed_tokens.weight"}


@pytest.fixture
def split(modules_of: Any, tmp_path: Path) -> Callable[..., Path]:
    """Save the files of a layer-split model beside its configuration and tokenizer."""

    def run(model: Any, edit: Callable[[dict[str, Any]], None] = lambda _: None) -> Path:
        folder = tmp_path / "split"
        folder.mkdir()
        for file in [*(tmp_path / "hf").glob("tokenizer*"), tmp_path / "hf" / "config.json"]:
            shutil.copy(file, folder)
        first, *layers, last = modules_of(model)
        files = {"pytorch_embs.pt": first, "pytorch_lm_head.pt": last}
        files |= {f"pytorch_{i}.pt": layer for i, layer in enumerate(layers)}
        edit(files)
        for name, state in files.items():
            torch.save(state, folder / name)
        return folder

    return run


@pytest.fixture
def refused(converted: Any, tmp_path: Path) -> Callable[..., str]:
    """Convert what cannot be converted; return the message."""

    def run(source: Path, to: str = "hf") -> str:
        with pytest.raises(ModelError) as caught:
            converted(source, to)
        assert not (tmp_path / "out").exists()
        return str(caught.value)

    return run


@pytest.mark.parametrize("kind", KINDS)
def test_layer_files_become_the_model_that_they_were_cut_from(
    kind: str, language_model: Any, split: Any, converted: Any, same_model: Any
) -> None:
    model = language_model(kind, layers=11)  # pytorch_10.pt after pytorch_9.pt
    source = split(model)
    assert layout_of(source).name == "openchatkit"
    folder = converted(source, "hf")
    same_model(folder, model)
    for file in source.glob("tokenizer*"):
        assert (folder / file.name).read_bytes() == file.read_bytes()
    account = json.loads((folder / "conversion.json").read_text())
    assert account["outputs"] == {"largest_difference": 0.0}


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_cut_into_layer_files_and_comes_back_to_the_bit(
    kind: str, language_model: Any, modules_of: Any, converted: Any, same_model: Any, tmp_path: Path
) -> None:
    model = language_model(kind, layers=3)
    folder = converted(tmp_path / "hf", "openchatkit")
    names = ["pytorch_embs.pt", *(f"pytorch_{i}.pt" for i in range(3)), "pytorch_lm_head.pt"]
    for name, module in zip(names, modules_of(model), strict=True):
        written = torch.load(folder / name, weights_only=True)
        assert written.keys() == module.keys()
        assert all(torch.equal(written[key], module[key]) for key in module)
    assert sorted(p.name for p in folder.glob("*.pt")) == sorted(names)
    back = converted(folder, "hf", "back")
    same_model(back, model)
    original = load_file(tmp_path / "hf" / "model.safetensors")
    assert load_file(back / "model.safetensors").keys() == original.keys()
    for file in (tmp_path / "hf").glob("tokenizer*"):
        assert (back / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_tied_embedding_is_in_two_files_and_is_one_again(
    kind: str, language_model: Any, converted: Any, same_model: Any, tmp_path: Path
) -> None:
    model = language_model(kind, layers=2, tie_word_embeddings=True)
    told = convert(Config(source=str(tmp_path / "hf"), to="openchatkit", output=tmp_path / "split"))
    assert f"made: {HEADS[kind]}: {EMBEDDINGS[kind]} once more, to which it is tied" in told
    head = torch.load(tmp_path / "split" / "pytorch_lm_head.pt", weights_only=True)
    assert torch.equal(head[HEADS[kind]], model.get_input_embeddings().weight)
    back = converted(tmp_path / "split", "hf")
    same_model(back, model)
    assert HEADS[kind] not in load_file(back / "model.safetensors")
    left = json.loads((back / "conversion.json").read_text())["left_out"]
    assert [one["file"] for one in left] == ["pytorch_lm_head.pt"]
    assert left[0]["reason"] == f"tied to {EMBEDDINGS[kind]}"


@pytest.mark.parametrize("kind", KINDS)
def test_tied_weights_that_differ_are_not_made_one(
    kind: str, language_model: Any, split: Any, refused: Any
) -> None:
    model = language_model(kind, layers=2, tie_word_embeddings=True)
    source = split(model, lambda files: files["pytorch_lm_head.pt"][HEADS[kind]].add_(1))
    assert f"{HEADS[kind]} and {EMBEDDINGS[kind]} differ" in refused(source)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("half", [False, True])
def test_buffers_of_older_versions_are_left_out_with_their_reasons(
    kind: str, half: bool, language_model: Any, split: Any, converted: Any, same_model: Any
) -> None:
    model = language_model(kind, layers=2)
    base, dimension = 10000.0, {"gpt_neox": 2, "llama": 8}[kind]  # NeoX turns a quarter of a head
    made = 1 / base ** (torch.arange(0, dimension, 2) / dimension)
    attention = {"gpt_neox": "attention", "llama": "self_attn"}[kind]
    old = {f"{attention}.rotary_emb.inv_freq": made.half() if half else made}
    if kind == "gpt_neox":
        old |= {"attention.bias": torch.ones(1, 1, 64, 64).tril().bool()}
        old |= {"attention.masked_bias": torch.tensor(-1e9)}
    source = split(model, lambda files: [files[f"pytorch_{i}.pt"].update(old) for i in (0, 1)])
    folder = converted(source, "hf")
    same_model(folder, model)
    left = json.loads((folder / "conversion.json").read_text())["left_out"]
    assert {one["key"] for one in left} == old.keys()
    assert len(left) == 2 * len(old)
    assert all("transformers makes itself" in one["reason"] for one in left)


def test_rotary_frequencies_other_than_those_of_the_configuration_are_named(
    language_model: Any, split: Any, refused: Any
) -> None:
    made = 1 / 500000.0 ** (torch.arange(0, 8, 2) / 8)
    source = split(
        language_model("llama", layers=2),
        lambda files: files["pytorch_1.pt"].update({"self_attn.rotary_emb.inv_freq": made}),
    )
    said = refused(source)
    assert "pytorch_1.pt: self_attn.rotary_emb.inv_freq: the model was trained with other" in said
    assert "expected 4 from 1 to 0.001, found 4 from 1 to 5.318e-05" in said


@pytest.mark.parametrize(
    ("kind", "rope", "older"),
    [
        (
            "gpt_neox",
            {"rope_theta": 500.0, "partial_rotary_factor": 1.0},
            {"rotary_emb_base": 500.0, "rotary_pct": 1.0},
        ),
        (
            "gpt_neox",
            {"rope_type": "linear", "factor": 4.0, "partial_rotary_factor": 0.5},
            {
                "rotary_emb_base": 10000.0,
                "rotary_pct": 0.5,
                "rope_scaling": {"type": "linear", "rope_type": "linear", "factor": 4.0},
            },
        ),
        (
            "llama",
            {"rope_type": "linear", "factor": 8.0, "rope_theta": 500.0},
            {
                "rope_theta": 500.0,
                "rope_scaling": {"type": "linear", "rope_type": "linear", "factor": 8.0},
            },
        ),
    ],
)
def test_rotary_settings_are_written_for_older_versions_and_mean_the_same_when_read_again(
    kind: str, rope: dict[str, Any], older: dict[str, Any], language_model: Any, converted: Any,
    same_model: Any, tmp_path: Path,
) -> None:  # fmt: skip
    model = language_model(kind, layers=1, rope_parameters=rope)
    folder = converted(tmp_path / "hf", "openchatkit")
    written = json.loads((folder / "config.json").read_text())
    assert {key: written.get(key) for key in older} == older
    assert written["rope_parameters"] == model.config.rope_parameters
    back = converted(folder, "hf", "back")
    same_model(back, model)
    found = dict(AutoConfig.from_pretrained(back).rope_parameters)
    found.pop("type", None)
    assert found == model.config.rope_parameters


def test_a_head_by_the_name_of_newer_versions_is_written_by_that_of_openchatkit(
    language_model: Any, converted: Any, tmp_path: Path
) -> None:
    model = language_model("gpt_neox", layers=2)
    file = tmp_path / "hf" / "model.safetensors"
    weights = load_file(file)
    weights["lm_head.weight"] = weights.pop("embed_out.weight")
    save_file(weights, file)
    head = torch.load(converted(tmp_path / "hf", "openchatkit") / "pytorch_lm_head.pt")
    assert torch.equal(head["embed_out.weight"], model.lm_head.weight)


def test_a_model_without_head_or_of_another_family_is_refused(
    language_model: Any, refused: Any, tiny_encoder: Path, tmp_path: Path
) -> None:
    language_model("llama", layers=2).model.save_pretrained(tmp_path / "headless")
    said = refused(tmp_path / "headless", "openchatkit")
    assert "holds a LlamaForCausalLM, with its head, and this is a LlamaModel" in said
    said = refused(tiny_encoder, "openchatkit")
    assert "openchatkit holds gpt_neox and llama, and this is bert" in said


def rename(source: str, target: str) -> Callable[[dict[str, Any]], None]:
    def edit(files: dict[str, Any]) -> None:
        files[target] = files.pop(source)

    return edit


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (rename("pytorch_1.pt", "x.pt"), "expected 5 files, missing: pytorch_1.pt"),
        (rename("pytorch_embs.pt", "x.pt"), "expected 5 files, missing: pytorch_embs.pt"),
        (rename("pytorch_lm_head.pt", "x.pt"), "missing: pytorch_lm_head.pt"),
        (rename("pytorch_2.pt", "x.pt"), "expected 3 layers by"),
        (
            lambda files: files.update({"pytorch_3.pt": files["pytorch_0.pt"]}),
            "found 4 (1 in pytorch_0.pt, 1 in pytorch_1.pt, 1 in pytorch_2.pt, 1 in pytorch_3.pt)",
        ),
        (
            lambda files: files.update({"pytorch_1.pt": files["pytorch_lm_head.pt"]}),
            "pytorch_1.pt: expected the tensors of the layer, found those of the head",
        ),
        (
            lambda files: files.update({"pytorch_embs.pt": {}}),
            "pytorch_embs.pt: expected the tensors of an embedding, a layer or a head of "
            "gpt_neox, found none",
        ),
        (
            lambda files: files["pytorch_2.pt"].update({"mlp.dense_4h_to_h.bias": torch.ones(3)}),
            "pytorch_2.pt: mlp.dense_4h_to_h.bias: expected (16,) by its configuration, found (3,)",
        ),
    ],
)
def test_files_that_are_missing_or_wrong_are_named_with_what_was_expected(
    edit: Any, expected: str, language_model: Any, split: Any, refused: Any
) -> None:
    assert expected in refused(split(language_model("gpt_neox", layers=3), edit))


def test_a_folder_with_two_models_or_no_configuration_is_refused(
    language_model: Any, split: Any, refused: Any, converted: Any, tmp_path: Path
) -> None:
    model = language_model("llama", layers=1)
    source = split(model)
    shutil.copy(tmp_path / "hf" / "model.safetensors", source)
    assert "two models, pytorch_embs.pt with its layers and model.safetensors" in refused(source)
    (source / "model.safetensors").unlink()
    (source / "config.json").unlink()
    assert "no config.json in it; --base MODEL" in refused(source)
    with pytest.raises(ModelError, match=r"split: no config.json in it$"):
        converted(source, "hf", base=str(source))
    converted(source, "hf", base=str(tmp_path / "hf"))


def test_a_disk_that_is_full_is_said_and_leaves_nothing(
    language_model: Any, converted: Any, tmp_path: Path
) -> None:
    weights = language_model("llama", layers=1, hidden_size=64).model.embed_tokens.weight
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (weights.nbytes // 2, before[1]))
    try:
        with pytest.raises(RunError, match=r"out: cannot be written: pytorch_\w+.pt: .*full\?"):
            converted(tmp_path / "hf", "openchatkit")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [file.name for file in tmp_path.iterdir()] == ["hf"]


def test_a_configuration_that_describes_no_model_is_named(
    language_model: Any, split: Any, refused: Any
) -> None:
    source = split(language_model("llama", layers=1))
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "hidden_size": "wide"}))
    assert "split: its configuration describes no LlamaForCausalLM: " in refused(source)


def test_a_configuration_without_a_class_is_named(
    language_model: Any, converted: Any, tmp_path: Path
) -> None:
    language_model("llama", layers=1)
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    del config["architectures"]
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"this is a model of no class \(architectures\)"):
        converted(tmp_path / "hf", "openchatkit")
