"""What the tests start by torchrun: checkpoints of DeepSpeed and of FSDP, by two processes.

    torchrun ... sharded_worker.py FOLDER {zero1,zero2,zero3,fsdp}...

writes FOLDER/NAME, as training leaves it, and beside it NAME.pt: the weights as the processes have
them, gathered and saved plainly.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.state_dict import get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import BartConfig, BartForConditionalGeneration

# of a Trainer's checkpoint; sizes that two processes cannot share without padding
CONFIG = {
    "architectures": ["BartForConditionalGeneration"], "model_type": "bart", "vocab_size": 61,
    "d_model": 10, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 23, "decoder_ffn_dim": 23,
    "max_position_embeddings": 16, "init_std": 0.2, "dropout": 0.0, "is_encoder_decoder": True,
}  # fmt: skip
FROZEN = "encoder.layers.0.fc"
TIED = ("model.encoder.embed_tokens", "model.decoder.embed_tokens", "lm_head")
BUFFER = "final_logits_bias"


def model() -> BartForConditionalGeneration:
    """Return a model with tied embeddings, frozen weights and a buffer."""
    torch.manual_seed(0)
    made = BartForConditionalGeneration(BartConfig.from_dict(CONFIG))
    made.get_buffer(BUFFER).copy_(torch.randn(1, 61))
    for name, parameter in made.named_parameters():
        parameter.requires_grad_(FROZEN not in name)
    return made


def step(run: Any, backward: Any, update: Any) -> None:
    """Train one step."""
    rows = torch.arange(12).view(2, 6) + 7 * dist.get_rank()
    backward(run(input_ids=rows, labels=rows).loss)
    update()


def zero(stage: int, folder: Path) -> dict[str, Tensor]:
    """Train by DeepSpeed in bf16; return the weights, those that are trained in fp32."""
    import deepspeed
    from deepspeed.utils import safe_get_full_fp32_param

    begun = model()
    engine, *_ = deepspeed.initialize(
        model=begun,
        optimizer=torch.optim.AdamW([p for p in begun.parameters() if p.requires_grad], lr=0.01),
        config={
            "train_micro_batch_size_per_gpu": 2, "bf16": {"enabled": True},
            "zero_optimization": {"stage": stage}, "zero_allow_untested_optimizer": True,
        },
    )  # fmt: skip
    step(engine, engine.backward, engine.step)
    engine.save_checkpoint(str(folder), tag="global_step1")
    weights = {}
    for name, parameter in engine.module.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter], enabled=stage == 3):
            whole = parameter.detach().clone()
        weights[name] = safe_get_full_fp32_param(parameter) if parameter.requires_grad else whole
    tied = {f"{name}.weight": weights["model.shared.weight"] for name in TIED}
    return {**weights, **tied, BUFFER: engine.module.get_buffer(BUFFER).float()}


def fsdp(folder: Path) -> dict[str, Tensor]:
    """Train by FSDP and save as accelerate does; return the weights."""
    sharded = model()
    for part in (*sharded.model.encoder.layers, *sharded.model.decoder.layers, sharded):
        fully_shard(part, mesh=dist.init_device_mesh("cpu", (2,)))
    optimizer = torch.optim.AdamW(sharded.parameters(), lr=0.01)
    step(sharded, Tensor.backward, optimizer.step)
    state = get_model_state_dict(sharded)
    dcp.save({"model": state}, storage_writer=dcp.FileSystemWriter(folder / "pytorch_model_fsdp_0"))
    return {name: w.full_tensor() if isinstance(w, DTensor) else w for name, w in state.items()}


def main(folder: Path, names: list[str]) -> None:
    """Make the checkpoints."""
    dist.init_process_group("gloo")
    if any(name.startswith("zero") for name in names):
        os.environ["DS_ACCELERATOR"] = "cpu"
        import deepspeed

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.init_distributed(dist_backend="gloo")
    for name in names:
        weights = fsdp(folder / name) if name == "fsdp" else zero(int(name[-1]), folder / name)
        if dist.get_rank() == 0:
            torch.save(weights, folder / f"{name}.pt")
            (folder / name / "config.json").write_text(json.dumps(CONFIG))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
