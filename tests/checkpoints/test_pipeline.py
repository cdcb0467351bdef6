"""Checkpoints of OpenChatKit's pipeline stages, put together by hand."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ragkit.checkpoints.layouts import layout_of, writable
from ragkit.errors import ModelError
from ragkit.stages.convert import Config, inspect

KINDS = ("gpt_neox", "llama")


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Save modules as stages of so many modules each; return the folder with `latest`."""

    def run(
        modules: Sequence[dict[str, Tensor]], sizes: Sequence[int], step: int = 20, prefix: str = ""
    ) -> Path:
        folder = tmp_path / "trained" / f"checkpoint_{step}"
        folder.mkdir(parents=True, exist_ok=True)
        assert sum(sizes) == len(modules)
        left = list(modules)
        for stage, size in enumerate(sizes):
            held, left = left[:size], left[size:]
            state = {f"{prefix}{i}.{k}": t for i, m in enumerate(held) for k, t in m.items()}
            torch.save(state, folder / f"prank_{stage}_checkpoint.pt")
        (folder / "meta.json").write_text(json.dumps({"step": step}))
        (folder.parent / "latest").write_text(str(step))
        return folder.parent

    return run


@pytest.fixture
def trained(language_model: Any, modules_of: Any, save: Any, tmp_path: Path) -> Path:
    """The folder of a step: a gpt_neox of 5 layers in stages of 2, 2 and 1."""
    folder: Path = save(modules_of(language_model("gpt_neox")), [3, 2, 2])
    return folder / "checkpoint_20"


@pytest.fixture
def refused(converted: Any, tmp_path: Path) -> Callable[..., str]:
    """Convert what cannot be converted; return the message."""

    def run(source: Path, base: str = "hf") -> str:
        with pytest.raises(ModelError) as caught:
            converted(source, "hf", base=str(tmp_path / base))
        assert not (tmp_path / "out").exists()
        return str(caught.value)

    return run


def change(file: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Save a file again after an edit of its state dict."""
    state = torch.load(file, weights_only=True)
    edit(state)
    torch.save(state, file)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [[7], [4, 3], [2, 4, 1], [1, 5, 1]], ids=str)
def test_stages_become_the_model_that_they_were_cut_from(
    kind: str, sizes: list[int], language_model: Any, modules_of: Any, save: Any, converted: Any,
    same_model: Any, tmp_path: Path,
) -> None:  # fmt: skip
    model = language_model(kind)
    source = save(modules_of(model), sizes)
    assert layout_of(source).name == "openchatkit-pipeline"
    folder = converted(source, "hf", base=str(tmp_path / "hf"))
    same_model(folder, model)
    for file in (tmp_path / "hf").glob("tokenizer*"):
        assert (folder / file.name).read_bytes() == file.read_bytes()
    account = json.loads((folder / "conversion.json").read_text())
    assert account["left_out"] == []
    assert account["outputs"] == {"largest_difference": 0.0}


def test_twelve_stages_are_taken_by_number_and_not_by_name(
    language_model: Any, modules_of: Any, save: Any, converted: Any, same_model: Any, tmp_path: Path
) -> None:
    model = language_model("llama", layers=12)
    source = save(modules_of(model), [2, *[1] * 10, 2])
    same_model(converted(source, "hf", base=str(tmp_path / "hf")), model)


def test_a_step_is_read_by_its_folder_or_by_latest(
    language_model: Any, modules_of: Any, save: Any, converted: Any, same_model: Any, tmp_path: Path
) -> None:
    base = str(tmp_path / "hf")
    old = language_model("gpt_neox")
    folder = save(modules_of(old), [4, 3], step=9)
    new = language_model("gpt_neox")
    with torch.no_grad():
        new.lm_head.weight.add_(1)
    save(modules_of(new), [4, 3], step=10)
    same_model(converted(folder, "hf", base=base), new)
    same_model(converted(folder / "checkpoint_9", "hf", "old", base=base), old)


@pytest.mark.parametrize("prefix", ["model.", "module.model."])
def test_half_precision_and_names_of_outer_modules_are_read_as_they_are(
    prefix: str, language_model: Any, modules_of: Any, save: Any, converted: Any, same_model: Any,
    tmp_path: Path,
) -> None:  # fmt: skip
    model = language_model("llama")
    for weight in model.parameters():  # not `half()`, which rounds the rotary frequencies too
        weight.data = weight.data.half()
    source = save(modules_of(model), [3, 4], prefix=prefix)
    folder = converted(source, "hf", base=str(tmp_path / "hf"))
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float16"
    same_model(folder, model)


def test_states_of_the_training_are_left_out_by_name(
    trained: Path, converted: Any, tmp_path: Path
) -> None:
    file = trained / "prank_1_checkpoint.pt"
    state = torch.load(file)
    moments = {"state": {0: {"exp_avg": torch.ones(3), "step": 7}}, "param_groups": [{"lr": 1e-5}]}
    torch.save({"model": state, "optimizer": moments, "iteration": 7}, file)
    torch.save(moments, trained / "prank_1_optimizer.pt")
    (trained / "dataset_state_dict.pt").write_bytes(b"not read")
    folder = converted(trained, "hf", base=str(tmp_path / "hf"))
    left = json.loads((folder / "conversion.json").read_text())["left_out"]
    assert {(one["file"], one["key"], one["reason"]) for one in left} == {
        ("prank_1_checkpoint.pt", "optimizer.state.0.exp_avg", "state of the training"),
        ("prank_1_checkpoint.pt", "optimizer.state.0.step", "no tensor (int)"),
        ("prank_1_checkpoint.pt", "optimizer.param_groups", "no tensor (list)"),
        ("prank_1_checkpoint.pt", "iteration", "no tensor (int)"),
    }


def test_stages_become_layer_files_with_nothing_of_their_common_storage(
    language_model: Any, modules_of: Any, save: Any, converted: Any, tmp_path: Path
) -> None:
    modules = modules_of(language_model("gpt_neox"))
    flat = torch.cat([t.reshape(-1) for m in modules for t in m.values()])
    views, start = [dict[str, Tensor]() for _ in modules], 0
    for view, module in zip(views, modules, strict=True):
        for key, tensor in module.items():
            view[key] = flat[start : start + tensor.numel()].view(tensor.shape)
            start += tensor.numel()
    source = save(views, [3, 4])
    folder = converted(source, "openchatkit", base=str(tmp_path / "hf"))
    for i, module in enumerate(modules[1:-1]):
        file = folder / f"pytorch_{i}.pt"
        written = torch.load(file, weights_only=True)
        assert written.keys() == module.keys()
        assert all(torch.equal(written[key], module[key]) for key in module)
        assert file.stat().st_size < 2 * sum(t.nbytes for t in module.values()) < flat.nbytes / 2


def test_inspect_says_what_stages_are_and_can_become(trained: Path, tmp_path: Path) -> None:
    table = inspect(Config(source=str(trained.parent), base=str(tmp_path / "hf")))
    cells = dict(zip(*(list(column.cells) for column in table.columns), strict=True))
    assert cells["layout"].startswith("openchatkit-pipeline: ")
    assert cells["model"] == "GPTNeoXForCausalLM, 64 tensors"
    assert cells["to openchatkit"].startswith("yes")
    assert "openchatkit-pipeline" not in writable()


def test_a_missing_base_is_asked_for(trained: Path, converted: Any) -> None:
    with pytest.raises(ModelError, match=r"no config.json in it; --base MODEL gives"):
        converted(trained, "hf")


def test_a_stage_that_is_missing_is_named(trained: Path, refused: Any) -> None:
    (trained / "prank_1_checkpoint.pt").unlink()
    expected = "expected stages 0 to 2, found 2; missing: prank_1_checkpoint.pt"
    assert expected in refused(trained)


def test_the_last_stage_is_missed_by_its_head(trained: Path, refused: Any) -> None:
    (trained / "prank_2_checkpoint.pt").unlink()
    said = refused(trained)
    assert "prank_1_checkpoint.pt, 1.: expected the tensors of the head, found those of the" in said
    assert "is the last stage missing? (expected 5 layers by" in said
    assert "found 4 (2 in prank_0_checkpoint.pt, 2 in prank_1_checkpoint.pt))" in said


def test_a_stage_too_many_is_named(trained: Path, refused: Any) -> None:
    extra = (trained / "prank_1_checkpoint.pt").read_bytes()
    (trained / "prank_3_checkpoint.pt").write_bytes(extra)
    said = refused(trained)
    assert (
        "prank_2_checkpoint.pt, 1.: expected the tensors of the layer, found those of the" in said
    )
    assert "are files of another checkpoint among these? (expected 5 layers by" in said
    assert "2 in prank_3_checkpoint.pt" in said


def test_a_module_that_a_stage_lacks_is_named(trained: Path, refused: Any) -> None:
    def drop(state: dict[str, Any]) -> None:
        for key in [key for key in state if key.startswith("1.")]:
            del state[key]

    change(trained / "prank_0_checkpoint.pt", drop)
    assert "expected modules 0. to 2., found 2; missing: 1." in refused(trained)


def test_a_tensor_that_a_layer_lacks_is_named(trained: Path, refused: Any) -> None:
    change(trained / "prank_1_checkpoint.pt", lambda state: state.pop("1.mlp.dense_4h_to_h.bias"))
    said = refused(trained)
    assert "1 of 64 weights that its configuration describes are missing" in said
    assert "gpt_neox.layers.3.mlp.dense_4h_to_h.bias" in said


def test_a_tensor_that_no_module_has_is_named(trained: Path, refused: Any) -> None:
    file = trained / "prank_1_checkpoint.pt"
    change(file, lambda state: state.update({"0.attention.dense.lora_A": torch.ones(2)}))
    said = refused(trained)
    assert "prank_1_checkpoint.pt: 0.attention.dense.lora_A: the GPTNeoXForCausalLM of its" in said
    change(file, lambda state: state.pop("0.attention.dense.lora_A"))
    change(file, lambda state: state.update({"ema": torch.ones(2)}))
    assert "belong to no layer that ragkit knows of this layout: ema (prank_1" in refused(trained)


def test_a_module_of_two_kinds_is_named(trained: Path, refused: Any) -> None:
    change(
        trained / "prank_2_checkpoint.pt",
        lambda state: state.update({"0.embed_out.weight": torch.ones(2)}),
    )
    said = refused(trained)
    assert "prank_2_checkpoint.pt, 0.: expected the tensors of an embedding, a layer or" in said
    assert "found attention, embed_out, input_layernorm, mlp, post_attention_layernorm" in said


def test_other_layer_counts_and_widths_than_the_base_are_named(
    trained: Path, language_model: Any, modules_of: Any, save: Any, refused: Any
) -> None:
    language_model("gpt_neox", layers=6, folder="deeper")
    said = refused(trained, "deeper")
    assert "expected 6 layers by" in said
    assert "found 5 (2 in prank_0_checkpoint.pt, 2 in prank_1_check" in said
    wide = modules_of(language_model("gpt_neox", hidden_size=32, folder="wide"))
    torch.save(
        {f"{i}.{k}": t for i, m in enumerate(wide[3:5]) for k, t in m.items()},
        trained / "prank_1_checkpoint.pt",
    )
    said = refused(trained)
    assert "prank_1_checkpoint.pt: 0.input_layernorm.weight: expected (16,) by its conf" in said
    assert "found (32,) (gpt_neox.layers.2.input_layernorm.weight)" in said


def test_a_base_of_another_family_is_named(
    trained: Path, language_model: Any, refused: Any, tiny_encoder: Path
) -> None:
    language_model("llama", folder="llama")
    said = refused(trained, "llama")
    assert "its tensors are of gpt_neox (embed_in.weight), and" in said
    assert "config.json is of llama" in said
    assert "expected gpt_neox or llama, found 'bert'" in refused(trained, str(tiny_encoder))


def test_files_of_two_steps_are_told_apart_by_meta_and_by_schedulers(
    trained: Path, refused: Any
) -> None:
    for stage, steps in enumerate([20, 20, 10]):
        torch.save({"last_epoch": steps}, trained / f"prank_{stage}_scheduler.pt")
    said = refused(trained)
    assert "stages of different steps are mixed" in said
    assert "prank_1_scheduler.pt 20, prank_2_scheduler.pt 10" in said
    (trained / "meta.json").write_text('{"step": 10}')
    assert "meta.json: expected step 20, found 10" in refused(trained)


def test_a_latest_that_names_no_step_is_named(trained: Path, refused: Any) -> None:
    latest = trained.parent / "latest"
    latest.write_text("30")
    said = refused(trained.parent)
    assert (
        "expected stages in checkpoint_30, found none; folders with stages: checkpoint_20" in said
    )
    latest.write_text("")
    assert "latest: expected a step, found ''" in refused(trained.parent)
    latest.unlink()
    assert "that names the step; give one of checkpoint_20" in refused(trained.parent)


def test_a_stage_cut_short_is_named(trained: Path, refused: Any) -> None:
    file = trained / "prank_2_checkpoint.pt"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    said = refused(trained)
    assert f"{file}: cannot be read ({len(whole) // 2:,} bytes" in said


class Planted:
    """A pickle of it writes a file when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


@pytest.mark.parametrize("name", ["prank_1_checkpoint.pt", "prank_1_scheduler.pt"])
def test_a_pickle_with_code_is_refused_and_does_not_run(
    name: str, trained: Path, refused: Any, tmp_path: Path
) -> None:
    torch.save({"0.": Planted(tmp_path / "ran")}, trained / name)
    assert f"{name}: refused: " in refused(trained)
    assert not (tmp_path / "ran").exists()
