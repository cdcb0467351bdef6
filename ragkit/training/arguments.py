"""From a configuration to `TrainingArguments`: schedule, precision, devices, DeepSpeed and FSDP.

What transformers would find out in the middle, or pass over in silence, is refused here first.
"""

import importlib.util
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainingArguments
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from ragkit.config.training import TrainLoop
from ragkit.errors import ConfigError, MissingExtraError, RunError
from ragkit.log import logger
from ragkit.models import ranks
from ragkit.models.devices import pick_device, use_bf16

# Keys of a DeepSpeed file that say the same as keys of the loop.
_LOOP_KEYS = {
    "train_micro_batch_size_per_gpu": "loop.batch_size",
    "train_batch_size": "loop.batch_size",
    "gradient_accumulation_steps": "loop.gradient_accumulation",
    "gradient_clipping": "loop.max_grad_norm",
    "optimizer": "loop.learning_rate and loop.weight_decay",
    "scheduler": "loop.schedule and loop.warmup",
}


def training_arguments(
    folder: Path,
    loop: TrainLoop,
    n_examples: int,
    seed: int,
    *,
    metric: str | None = None,
    greater_is_better: bool = True,
    resumed: bool = False,
    layers: list[str] | None = None,
    more: Mapping[str, Any] | None = None,
) -> TrainingArguments:
    """Return the Trainer's arguments.

    folder: of the checkpoints
    metric: the dev metric that chooses the best checkpoint; None: there is no dev set
    layers: class names of the model's layers, which FSDP wraps
    more: further arguments
    Raises:
        ConfigError: settings that do not go together, or not with this machine.
        MissingExtraError: DeepSpeed is asked for and not installed.
        RunError: several processes that are not connected.
    """
    _check_reporters(loop.report_to)
    device = pick_device(loop.device)
    if device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"  # accelerate imports DeepSpeed where it is installed
    # it warns of checkpoints written within a second
    logging.getLogger("transformers.trainer_utils").setLevel(logging.ERROR)
    logging.getLogger("transformers.trainer").addFilter(_is_news)
    bf16 = use_bf16(loop.precision, device)
    arguments = _basic(folder, loop, n_examples, seed) | {
        "bf16": bf16,
        "use_cpu": device.type == "cpu",
        **(more or {}),
    }
    if metric is not None:
        arguments |= {
            "eval_strategy": arguments["save_strategy"],
            "eval_on_start": not resumed,
            "load_best_model_at_end": True,
            "metric_for_best_model": f"eval_{metric}",
            "greater_is_better": greater_is_better,
            "restore_callback_states_from_checkpoint": True,
        }
    if loop.deepspeed:
        _need_torchrun("loop.deepspeed")
        settings = deepspeed_settings(loop.deepspeed, bf16)
        arguments |= {"deepspeed": settings, "bf16": bf16 and "bf16" in settings}
        if device.type == "cpu":
            _compile_nothing()
    if loop.fsdp:
        if device.type != "cuda":
            raise ConfigError(
                f"loop.fsdp: needs GPUs, and this would train on {device.type}, where the Trainer "
                "turns FSDP off without a word; leave it unset"
            )
        _need_torchrun("loop.fsdp")
        settings = _read_settings("loop.fsdp", loop.fsdp)
        if layers:
            settings = {"transformer_layer_cls_to_wrap": layers, **settings}
        arguments |= {"fsdp": True, "fsdp_config": settings}
    built = TrainingArguments(**arguments)
    # from here on transformers would take apart what it loads, at stage 3: a guide, too
    unset_hf_deepspeed_config()  # type: ignore[no-untyped-call]
    if built.world_size != ranks.count():
        raise RunError(
            f"WORLD_SIZE is {ranks.count()}, but the processes are not connected on "
            f"{device.type}: each would train a model of its own; start one process"
        )
    if built.n_gpu > 1:
        logger.warning(
            "one of %d GPUs is used; all: torchrun --nproc-per-node %d -m ragkit ...",
            built.n_gpu, built.n_gpu,
        )  # fmt: skip
        built._n_gpu = (
            1  # else the Trainer splits batches by nn.DataParallel, which ours are not for
        )
    return built


def deepspeed_settings(path: Path, bf16: bool) -> dict[str, Any]:
    """Read a DeepSpeed file and complete it: what the loop says is filled in.

    In bf16 the file gets `torch_autocast`, which keeps the weights in fp32, unless it has a section
    of its own for precision.

    Raises:
        ConfigError: it contradicts the loop, or would leave no model that can be loaded.
        MissingExtraError: DeepSpeed is not installed.
    """
    if importlib.util.find_spec("deepspeed") is None:
        raise MissingExtraError("deepspeed", "deepspeed", "loop.deepspeed")
    settings = _read_settings("loop.deepspeed", path)
    problems = [
        f"loop.deepspeed: {path}: {key}: say it by {ours}, and leave it out here or `auto`"
        for key, ours in _LOOP_KEYS.items()
        if settings.get(key, "auto") != "auto"
    ]
    zero = dict(settings.get("zero_optimization", {}))
    gathered = "stage3_gather_16bit_weights_on_model_save"
    if zero.get("stage") == 3 and zero.get(gathered) is not True:
        problems.append(
            f"loop.deepspeed: {path}: zero_optimization.{gathered}: must be true at stage 3; "
            "without it the checkpoints hold no weights that another program loads"
        )
    settings, precision = _without_idle_precision(settings)
    if precision.get("fp16"):
        problems.append(f"loop.deepspeed: {path}: fp16: not trained in; leave it out")
    if precision.get("bf16") is True and not bf16:
        problems.append(
            f"loop.deepspeed: {path}: bf16: contradicts loop.precision, which comes to fp32 here"
        )
    if problems:
        raise ConfigError(problems)
    # an "auto" below zero_optimization stands for DeepSpeed's default
    settings["zero_optimization"] = {k: v for k, v in zero.items() if v != "auto"}
    filled = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
    settings |= dict.fromkeys(filled, "auto")
    if bf16 and not {"bf16", "torch_autocast"} & set(settings):
        settings["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
    return settings


def _without_idle_precision(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return DeepSpeed's settings without precisions that are off, and what the others say.

    `fp16: auto` is off: the Trainer, which fills it in, is not told to train in it.
    """
    said = {
        name: settings[name].get("enabled", False)
        for name in ("bf16", "fp16")
        if isinstance(settings.get(name), Mapping)
    }
    off = [n for n, on in said.items() if on is False or (n == "fp16" and on == "auto")]
    return {k: v for k, v in settings.items() if k not in off}, {
        n: on for n, on in said.items() if n not in off
    }


def shards_weights(loop: TrainLoop) -> bool:
    """Return whether no process has the whole weights: FSDP, and DeepSpeed's stage 3."""
    if loop.deepspeed is None:
        return loop.fsdp is not None
    zero = _read_settings("loop.deepspeed", loop.deepspeed).get("zero_optimization", {})
    return bool(zero.get("stage") == 3)


def _read_settings(key: str, path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{key}: {path}: cannot be read as JSON: {error}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{key}: {path}: holds a {type(settings).__name__}, not a mapping")
    return settings


def _is_news(record: logging.LogRecord) -> bool:
    """Tell a warning from that of weights which a checkpoint keeps once and a model has twice."""
    return "missing keys in the checkpoint" not in record.getMessage()


def _need_torchrun(key: str) -> None:
    if "RANK" not in os.environ:
        raise ConfigError(f"{key}: start with `torchrun --nproc-per-node N -m ragkit ...`")


def _compile_nothing() -> None:
    """Keep DeepSpeed from building a kernel that only inference uses: a compiler, two minutes."""
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def _check_reporters(names: Sequence[str]) -> None:
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"loop.report_to: {name} is not installed: pip install {name}, or leave it out"
            )


def _basic(folder: Path, loop: TrainLoop, n_examples: int, seed: int) -> dict[str, Any]:
    per_epoch = -(-n_examples // (loop.batch_size * loop.gradient_accumulation * ranks.count()))
    total = loop.max_steps or max(round(per_epoch * loop.epochs), 1)
    arguments: dict[str, Any] = {
        "output_dir": str(folder),
        "run_name": str(folder.parent),
        "per_device_train_batch_size": loop.batch_size,
        "gradient_accumulation_steps": loop.gradient_accumulation,
        "num_train_epochs": loop.epochs,
        "max_steps": loop.max_steps or -1,
        "learning_rate": loop.learning_rate,
        "warmup_steps": loop.warmup,
        "lr_scheduler_type": loop.schedule,
        "weight_decay": loop.weight_decay,
        "max_grad_norm": loop.max_grad_norm,
        "logging_steps": max(total // 20, 1),
        "logging_nan_inf_filter": False,
        "save_strategy": "epoch",
        "save_total_limit": 2,
        "seed": seed,
        "data_seed": seed,
        # TensorBoard's callback is made by `callbacks.reporters`, for the folder
        "report_to": [name for name in loop.report_to if name != "tensorboard"] or "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
        # every trained parameter has a gradient in every step
        "ddp_find_unused_parameters": False,
    }
    if loop.evaluate_every != "epoch":
        every = loop.evaluate_every
        arguments |= {"save_strategy": "steps", "save_steps": every, "eval_steps": every}
    return arguments


def plain_settings(loop: TrainLoop) -> Mapping[str, Any]:
    """Return what of the loop decides the weights, with the contents of the files it names."""
    settings = loop.model_dump(
        mode="json", exclude={"device", "report_to", "precision", "halve_batch"}
    )
    for key, path in (("deepspeed", loop.deepspeed), ("fsdp", loop.fsdp)):
        settings[key] = _read_settings(f"loop.{key}", path) if path else None
    return {**settings, "bf16": use_bf16(loop.precision, pick_device(loop.device))}
