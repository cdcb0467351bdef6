"""What the tests of checkpoints share: small language models, conversions, sharded states."""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor

WORKER = Path(__file__).with_name("sharded_worker.py")

Modules = list[dict[str, Tensor]]


@pytest.fixture
def language_model(tmp_path: Path, tiny_decoder: Path) -> Callable[..., Any]:
    """Make a random gpt_neox or llama, and its folder `hf`, with the tokenizer of tiny_decoder."""

    def make(kind: str, layers: int = 5, folder: str = "hf", **changes: Any) -> Any:
        sizes = {
            "vocab_size": hf.AutoConfig.from_pretrained(tiny_decoder).vocab_size,
            "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2,
            "num_hidden_layers": layers, "max_position_embeddings": 64,
            "bos_token_id": 1, "eos_token_id": 2,
        }  # fmt: skip
        name = {"gpt_neox": "GPTNeoX", "llama": "Llama"}[kind]
        torch.manual_seed(0)
        model = getattr(hf, f"{name}ForCausalLM")(
            getattr(hf, f"{name}Config")(**{**sizes, **changes})
        ).eval()
        with torch.no_grad():
            for weight in model.parameters():
                weight.normal_(std=0.3)  # norms too: none is like that of another layer
        model.save_pretrained(tmp_path / folder)
        for file in tiny_decoder.glob("tokenizer*"):
            shutil.copy(file, tmp_path / folder)
        return model

    return make


@pytest.fixture
def modules_of() -> Callable[[Any], Modules]:
    """What OpenChatKit has of a model: its embedding, each layer, its head."""

    def take(model: Any) -> Modules:
        if model.config.model_type == "gpt_neox":
            first = {"embed_in.weight": model.gpt_neox.embed_in.weight}
            layers = model.gpt_neox.layers
            last = {
                "final_layer_norm.weight": model.gpt_neox.final_layer_norm.weight,
                "final_layer_norm.bias": model.gpt_neox.final_layer_norm.bias,
                "embed_out.weight": model.lm_head.weight,
            }
        else:
            first = {"embed_tokens.weight": model.model.embed_tokens.weight}
            layers = model.model.layers
            last = {"norm.weight": model.model.norm.weight, "lm_head.weight": model.lm_head.weight}
        modules = [first, *(dict(layer.state_dict()) for layer in layers), last]
        return [{key: t.detach().clone() for key, t in m.items()} for m in modules]

    return take


@pytest.fixture
def converted(tmp_path: Path) -> Callable[..., Path]:
    """Convert a checkpoint by the command's function; return the new folder."""
    from ragkit.stages.convert import Config, convert

    def run(source: Path, to: str, name: str = "out", **options: Any) -> Path:
        convert(Config(source=str(source), to=to, output=tmp_path / name, **options))
        return tmp_path / name

    return run


@pytest.fixture
def same_model() -> Callable[[Path, Any], None]:
    """Check that transformers loads a folder as a given model: each bit, and its logits."""

    def check(folder: Path, model: Any) -> None:
        loaded, report = hf.AutoModelForCausalLM.from_pretrained(
            folder, dtype="auto", output_loading_info=True
        )
        assert not any(report.values())
        expected = model.state_dict()
        assert loaded.state_dict().keys() == expected.keys()
        for name, weight in loaded.state_dict().items():
            assert weight.dtype == expected[name].dtype, name
            assert torch.equal(weight, expected[name]), name
        tokens = torch.arange(24).view(2, 12)
        with torch.no_grad():
            found, wanted = loaded.float()(tokens).logits, model.float()(tokens).logits
        assert torch.equal(found, wanted)
        assert found.std() > 0.1

    return check


@pytest.fixture(scope="session")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of checkpoints that two processes wrote; DeepSpeed's where it is installed."""
    folder = tmp_path_factory.mktemp("sharded")
    has_deepspeed = importlib.util.find_spec("deepspeed") is not None
    names = ["zero1", "zero2", "zero3", "fsdp"] if has_deepspeed else ["fsdp"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *launcher, str(WORKER), str(folder), *names],
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder
