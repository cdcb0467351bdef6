"""DeepSpeed's checkpoints, made by DeepSpeed in two processes, read as fp32 to the bit."""

import importlib.util
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM

from ragkit.checkpoints import zero
from ragkit.checkpoints.layouts import layout_of
from ragkit.checkpoints.parts import ONLY, Reading
from ragkit.checkpoints.proof import check_used
from ragkit.errors import MissingExtraError, ModelError

needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed"
)
TRUSTED = Reading(trust=True)
FROZEN = [f"model.encoder.layers.0.fc{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")]
TIED = ["lm_head.weight", *(f"model.{side}.embed_tokens.weight" for side in ("encoder", "decoder"))]


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


@pytest.fixture
def states(tmp_path: Path) -> Path:
    """A Trainer's checkpoint with states that would run code."""
    folder = tmp_path / "checkpoint-3"
    (folder / "global_step3").mkdir(parents=True)
    (folder / "latest").write_text("global_step3\n")
    for name in ("zero_pp_rank_0_mp_rank_00_optim_states.pt", "mp_rank_00_model_states.pt"):
        (folder / "global_step3" / name).write_bytes(pickle.dumps(Touch(tmp_path / "ran")))
    return folder


@pytest.fixture
def copy(sharded: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Copy one of the checkpoints, to be spoilt."""

    def made(name: str) -> Path:
        return Path(shutil.copytree(sharded / name, tmp_path / name))

    return made


@needs_deepspeed
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_weights_are_those_that_the_processes_trained(stage: int, sharded: Path) -> None:
    checkpoint = layout_of(sharded / f"zero{stage}").read(sharded / f"zero{stage}", TRUSTED)
    check_used(checkpoint)
    expected = torch.load(sharded / f"zero{stage}.pt")
    weights = checkpoint.parts[ONLY].weights
    assert set(weights) == set(expected)
    assert {"final_logits_bias", *FROZEN, *TIED} < set(weights)
    for name, weight in weights.items():
        found = weight.read()
        assert torch.equal(found, expected[name]), name
        assert (weight.shape, weight.dtype) == (tuple(found.shape), found.dtype), name
        assert found.dtype == (torch.bfloat16 if name in FROZEN else torch.float32), name
    # masters, not what the model computes with
    assert any(not torch.equal(w, w.bfloat16().float()) for w in expected.values())


@needs_deepspeed
@pytest.mark.parametrize("stage", [2, 3])
def test_a_checkpoint_becomes_a_folder_that_transformers_loads(
    stage: int, sharded: Path, tmp_path: Path, ragkit: Callable[..., Any]
) -> None:
    source, out = sharded / f"zero{stage}", tmp_path / "out"
    done = ragkit(
        "convert", str(source), "--to", "hf", "-o", str(out), "--trust-checkpoint", "--dtype",
        "fp32",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "zero checkpoint" not in done.out + done.err  # the consolidator talks
    assert f"{source} (deepspeed) -> {out} (hf)" in done.out
    model, report = AutoModelForSeq2SeqLM.from_pretrained(out, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    expected = torch.load(sharded / f"zero{stage}.pt")
    for name, found in model.state_dict().items():
        assert torch.equal(found, expected[name].float()), name
    account = json.loads((out / "conversion.json").read_text())
    traced = {t["name"]: t for t in account["tensors"]}
    shared = traced["model.shared.weight"]
    assert shared["from"] == [{"file": "global_step1", "key": "model.shared.weight"}]
    assert shared["how"] == "gathered by DeepSpeed from 2 processes"
    copies = [left for left in account["left_out"] if left["key"] == "module.model.shared.weight"]
    assert [c["reason"] for c in copies] == ["bf16 copy of what is taken in fp32"] * (stage == 2)


@needs_deepspeed
def test_what_is_frozen_at_stage_1_is_taken_from_the_models_own_file(sharded: Path) -> None:
    weight = zero.read(sharded / "zero1", TRUSTED).parts[ONLY].weights[FROZEN[0]]
    (source,) = weight.sources
    assert (source.file.name, source.key) == ("mp_rank_00_model_states.pt", f"module.{FROZEN[0]}")


@needs_deepspeed
def test_the_folder_of_a_step_is_a_checkpoint_too(sharded: Path) -> None:
    step = zero.read(sharded / "zero3" / "global_step1", TRUSTED)
    whole = zero.read(sharded / "zero3", TRUSTED)
    assert {n: w.shape for n, w in step.named().items()} == {
        n: w.shape for n, w in whole.named().items()
    }


@needs_deepspeed
@pytest.mark.parametrize("stage", [2, 3])
def test_a_missing_process_is_named(stage: int, copy: Callable[[str], Path]) -> None:
    folder = copy(f"zero{stage}")
    (folder / "global_step1" / "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt").unlink()
    with pytest.raises(ModelError, match=r"global_step1: .*Expected 2 of .* but found 1 files"):
        zero.read(folder, TRUSTED)


@needs_deepspeed
@pytest.mark.parametrize("name", ["bf16_zero_pp_rank_0_mp_rank_00_optim", "mp_rank_00_model"])
def test_a_truncated_file_is_named(name: str, copy: Callable[[str], Path]) -> None:
    file = copy("zero2") / "global_step1" / f"{name}_states.pt"
    file.write_bytes(file.read_bytes()[:9000])
    with pytest.raises(ModelError, match=rf"{name}_states.pt: cannot be read \(9,000 bytes\)"):
        zero.read(file.parents[1], TRUSTED)


@needs_deepspeed
def test_a_configuration_of_other_shapes_is_named(copy: Callable[[str], Path]) -> None:
    folder = copy("zero3")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "encoder_ffn_dim": 24}))
    with pytest.raises(ModelError, match=r"fc1.weight: .*expects \(24, 10\), found \(23, 10\)"):
        zero.read(folder, TRUSTED)


@needs_deepspeed
def test_the_base_gives_what_the_checkpoint_has_not(
    copy: Callable[[str], Path], sharded: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    folder = copy("zero3")
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"no config.json .*--base MODEL"):
        zero.read(folder, TRUSTED)
    base = tmp_path / "base"
    base.mkdir()
    shutil.copy(tiny_encoder / "tokenizer.json", base)
    shutil.copy(sharded / "zero3" / "config.json", base)
    part = zero.read(folder, Reading(base=base, trust=True)).parts[ONLY]
    assert part.config["d_model"] == 10
    assert part.files == {"tokenizer.json": base / "tokenizer.json"}


def test_nothing_is_loaded_without_trust(states: Path) -> None:
    with pytest.raises(ModelError, match=r"global_step3: .*can run code.*--trust-checkpoint"):
        layout_of(states).read(states, Reading())
    assert not (states.parent / "ran").exists()


def test_deepspeed_is_named_where_it_is_missing(
    states: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"checkpoint-3: .*deepspeed.*ragkit\[deepspeed\]"):
        zero.read(states, TRUSTED)


def test_a_step_that_is_not_there_is_named_with_those_that_are(states: Path) -> None:
    (states / "latest").write_text("global_step9")
    with pytest.raises(ModelError, match=r"latest: names global_step9, .*global_step3"):
        layout_of(states).read(states, TRUSTED)


def test_a_trainers_checkpoint_is_deepspeeds_unless_its_weights_are_whole(
    states: Path, tiny_decoder: Path
) -> None:
    shutil.copytree(tiny_decoder, states, dirs_exist_ok=True)
    assert layout_of(states).name == "hf"
    assert layout_of(states / "global_step3").name == "deepspeed"
    halves = {k: v.bfloat16() for k, v in load_file(states / "model.safetensors").items()}
    save_file(halves, states / "model.safetensors", metadata={"format": "pt"})
    assert layout_of(states).name == "deepspeed"
    (states / "latest").unlink()
    assert layout_of(states).name == "hf"


def test_adapters_that_are_saved_in_fp32_are_no_deepspeed_checkpoint(states: Path) -> None:
    (states / "adapter_config.json").write_text("{}")
    save_file({"lora_A.weight": torch.zeros(2)}, states / "adapter_model.safetensors")
    assert not zero.found(states)


def test_a_file_latest_of_others_is_not_deepspeeds(tmp_path: Path) -> None:
    (tmp_path / "latest").write_text("100")
    (tmp_path / "checkpoint_100").mkdir()
    assert not zero.found(tmp_path)
