"""The layouts that checkpoints come in, and which of them a path is.

A row a layout; its module reads it into `parts.Checkpoint` and, where it can be written, adapts a
checkpoint to what it holds and writes that.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from ragkit.checkpoints import (
    cerebras,
    distributed,
    extraction,
    folders,
    lora,
    openchatkit,
    pipeline,
    sentence,
    towers,
    zero,
)
from ragkit.checkpoints.parts import Checkpoint, Reading, Writing
from ragkit.errors import ModelError


@dataclass(frozen=True)
class Layout:
    """A layout of checkpoints.

    about: in a few words
    found: whether a path is one
    read: its weights, not yet in memory
    load: its models as transformers loads them, by tower, on a device ("meta": names and shapes
        alone), in fp32; None: transformers cannot
    adapt: a checkpoint as this layout holds it; None: it is only read
    write: an adapted checkpoint into a new folder
    written: what `write` wrote, as `adapt` had it; None: as `read` gives it
    """

    name: str
    about: str
    found: Callable[[Path], bool]
    read: Callable[[Path, Reading], Checkpoint]
    load: Callable[[Path, Reading, str], dict[str, PreTrainedModel]] | None = None
    adapt: Callable[[Checkpoint, Writing], Checkpoint] | None = None
    write: Callable[[Checkpoint, Path, Writing], None] | None = None
    written: Callable[[Path, Reading], Checkpoint] | None = None


# in the order in which they are looked for: the more particular first
LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout("deepspeed", "a training's state by DeepSpeed (ZeRO)", zero.found, zero.read),
        Layout(
            "distributed", "a training's state by FSDP (torch.distributed.checkpoint)",
            distributed.found, distributed.read,
        ),
        Layout(
            "sentence-transformers", "an encoder with its pooling and prefixes",
            sentence.found, sentence.read, sentence.load, sentence.adapt, sentence.write,
        ),
        Layout(
            "dpr", "two towers as DPR's classes: q_encoder/ and ctx_encoder/",
            towers.found_dpr, towers.read, towers.load, towers.adapt_dpr, towers.write_dpr,
        ),
        Layout(
            "hf-dual", "two towers as plain models: q_encoder/ and ctx_encoder/",
            towers.found, towers.read, towers.load, towers.adapt, towers.write,
        ),
        Layout(
            "cerebras", "a .mdl of Cerebras' Model Zoo (DocChat) and its YAML",
            cerebras.found, cerebras.read, adapt=cerebras.adapt, write=cerebras.write,
        ),
        Layout(
            openchatkit.NAME, "OpenChatKit's base models: a file for each layer",
            openchatkit.found, openchatkit.read, openchatkit.load,
            openchatkit.adapt, openchatkit.write,
        ),
        Layout(
            pipeline.NAME, "OpenChatKit's training: a file for each pipeline stage",
            pipeline.found, pipeline.read, pipeline.load,
        ),
        Layout(
            "lora", "adapters of peft and their base",
            lora.found, lora.read, lora.load, extraction.adapt, extraction.write,
            extraction.written,
        ),
        Layout(
            "hf", "a folder that transformers loads",
            folders.found, folders.read, folders.load, folders.adapt, folders.write,
        ),
    )
}  # fmt: skip


def layout_of(path: Path) -> Layout:
    """Return the layout of a checkpoint.

    Raises:
        ModelError: no checkpoint, or of a layout that ragkit does not know.
    """
    for layout in LAYOUTS.values():
        if layout.found(path):
            return layout
    if not path.exists():
        raise ModelError(f"{path}: no such file or folder")
    if path.suffix in (".safetensors", ".bin", ".pt"):
        raise ModelError(f"{path}: a file alone is no checkpoint of this kind: give its folder")
    if folders.weight_files(path):
        raise ModelError(
            f"{path}: weights, and no {folders.CONFIG} beside them: that of the model that they "
            "are of belongs there"
        )
    held = ", ".join(sorted(p.name for p in path.iterdir())[:8]) if path.is_dir() else "a file"
    raise ModelError(
        f"{path}: no checkpoint that ragkit knows ({held}); it reads {', '.join(LAYOUTS)}"
    )


def writable() -> list[str]:
    """Return the names of the layouts that can be written."""
    return [layout.name for layout in LAYOUTS.values() if layout.write]
