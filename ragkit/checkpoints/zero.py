"""DeepSpeed's checkpoints of ZeRO 1, 2 and 3, put together in fp32 by its own consolidator.

The weights are the optimizer's fp32 masters, spread over a file a process; what the model itself is
saved with may be in 16 bits. The files are pickles of DeepSpeed's own classes, and loading those
can run code: they are read only where that is allowed.
"""

import importlib.util
import io
import warnings
import zipfile
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch.utils import serialization

from ragkit.checkpoints.consolidated import STATE, described, is_whole_beside
from ragkit.checkpoints.parts import ONLY, Checkpoint, LeftOut, Reading
from ragkit.checkpoints.weights import Stored, Weight, short
from ragkit.errors import MissingExtraError, ModelError
from ragkit.log import hushed

LATEST = "latest"
_OPTIMIZER, _MODEL = "*_optim_states.pt", "*_model_states.pt"


def found(path: Path) -> bool:
    """Return whether a folder is DeepSpeed's, or a Trainer's with DeepSpeed's states in it.

    Not a Trainer's that has the weights in fp32 beside them: those need no trust.
    """
    states = _states(path)
    return states is not None and (states == path or not is_whole_beside(path))


def read(path: Path, reading: Reading) -> Checkpoint:
    """Read the fp32 weights of the step that `latest` names, or of the folder of a step.

    Of ZeRO 3 one weight is in memory at a time, of ZeRO 1 and 2 all are, in fp32: so does
    DeepSpeed put them together.

    Raises:
        ModelError: not trusted, no such step, missing or damaged files, no configuration, or
            weights that it does not have.
        MissingExtraError: DeepSpeed is not installed.
    """
    states = _states(path)
    assert states is not None, "`found` has seen it"
    _check(path, states, reading.trust)
    gathered, module = _gathered(states)
    weights = _weights(states, gathered, module)
    part = described(path, states.parent, weights, reading)
    stored = tuple(source for weight in weights.values() for source in weight.sources)
    left_out = _left_out(states, gathered, module)
    return Checkpoint(path, {ONLY: part}, stored, left_out)


def _weights(
    states: Path, gathered: Mapping[str, Any], module: Mapping[str, Any]
) -> dict[str, Weight]:
    """Return what was gathered, and what is only in the model's own file: frozen, at stage 1."""
    how = f"gathered by DeepSpeed from {len(list(states.glob(_OPTIMIZER)))} processes"
    own, only = _model_file(states), {n: t for n, t in module.items() if n not in gathered}
    return {name: _weight(states, name, t, how) for name, t in gathered.items()} | {
        name: _weight(own, f"module.{name}", t) for name, t in only.items()
    }


def _weight(file: Path, key: str, tensor: Any, how: str = "") -> Weight:
    shape, dtype = tuple(tensor.shape), tensor.dtype
    return Weight(shape, dtype, (Stored(file, key, shape, dtype),), tensor.contiguous, how)


def _left_out(
    states: Path, gathered: Mapping[str, Any], module: Mapping[str, Any]
) -> tuple[LeftOut, ...]:
    """Return the optimizers' states, and the model's copies of what was gathered in fp32."""
    own = _model_file(states)
    copies = tuple(
        LeftOut(own, f"module.{name}", f"{short(t.dtype)} copy of what is taken in fp32")
        for name, t in module.items()
        if name in gathered and t.dtype != gathered[name].dtype and t.numel()
    )
    files = sorted(states.glob(_OPTIMIZER))
    return (*(LeftOut(file, "optimizer_state_dict", STATE) for file in files), *copies)


def _states(path: Path) -> Path | None:
    """Return the folder of a step's files that a path means; it may be missing. None: no such."""
    if _has_states(path):
        return path
    latest = path / LATEST
    if not latest.is_file():
        return None
    states = path / latest.read_text(errors="replace").strip()
    return states if states.name.startswith("global_step") or _has_states(states) else None


def _has_states(path: Path) -> bool:
    return any(file for pattern in (_OPTIMIZER, _MODEL) for file in path.glob(pattern))


def _check(path: Path, states: Path, trust: bool) -> None:
    """Make sure that a step is there, trusted and whole, and that DeepSpeed is installed."""
    if not states.is_dir():
        steps = ", ".join(sorted(p.name for p in states.parent.iterdir() if _has_states(p)))
        other = f"convert one of the folders that are: {steps}" if steps else "no other is, either"
        raise ModelError(f"{path / LATEST}: names {states.name}, which is not there; {other}")
    if not trust:
        raise ModelError(
            f"{states}: DeepSpeed's files are pickles, and loading them can run code: if you trust "
            "who wrote them, allow it by --trust-checkpoint; weights in 16 bits that are saved "
            f"beside them are converted once {LATEST} is moved away"
        )
    if importlib.util.find_spec("deepspeed") is None:
        raise MissingExtraError("deepspeed", "deepspeed", f"{path}: a checkpoint of DeepSpeed")
    for file in sorted(states.glob("*.pt")):
        if not zipfile.is_zipfile(file):
            raise ModelError(
                f"{file}: cannot be read ({file.stat().st_size:,} bytes): is it whole?"
            )


def _gathered(states: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the weights in fp32, and as the model has them: those that it shares out are empty.

    The first are tensors, or have a tensor's shape and dtype and become one by `contiguous()`.
    """
    silence = io.StringIO()
    with warnings.catch_warnings(), hushed("DeepSpeed"):
        warnings.simplefilter("ignore")
        from deepspeed.utils.zero_to_fp32 import (
            get_fp32_state_dict_from_zero_checkpoint as consolidate,
        )
    settings: Any = serialization.config
    try:
        with (
            settings.patch({"load.mmap": True}),
            redirect_stdout(silence),
            redirect_stderr(silence),
        ):
            gathered = consolidate(str(states.parent), tag=states.name, lazy_mode=True)
            module = torch.load(_model_file(states), map_location="cpu", weights_only=False)
    except Exception as error:  # what is unpickled may raise anything
        reason = str(error).strip().split("\n")[0]
        raise ModelError(
            f"{states}: DeepSpeed cannot put it together: {type(error).__name__}: {reason}"
        ) from error
    return gathered, module["module"]


def _model_file(states: Path) -> Path:
    """Return the file of the model as the first process had it."""
    return min(states.glob(_MODEL))
