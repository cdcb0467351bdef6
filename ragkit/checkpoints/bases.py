"""The models that adapters are for: where they are, and what their weights are called.

Adapters name modules as the class that they were trained in does. The base's files may be those of
another class of the same model, with the model's prefix before all names (`bert.`, `transformer.`)
or without it.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn
from transformers import PreTrainedModel

from ragkit.checkpoints import folders
from ragkit.checkpoints.adapters import CONFIG, read_config
from ragkit.checkpoints.parts import ONLY, Checkpoint, Part, Reading
from ragkit.checkpoints.references import located
from ragkit.checkpoints.weights import Weight
from ragkit.errors import ModelError

if TYPE_CHECKING:
    from ragkit.checkpoints.layouts import Layout


# layouts whose models lie in a folder each that transformers loads
_NAMED = ("hf", "hf-dual", "dpr", "sentence-transformers")


@dataclass(frozen=True)
class Base:
    """One model, by the names that adapters have for its weights."""

    part: Part

    @cached_property
    def model(self) -> PreTrainedModel | None:
        """The model without its numbers; None: of no class of transformers'."""
        return folders.skeleton(self.part.config)

    @cached_property
    def modules(self) -> dict[str, nn.Module]:
        """The modules of its class, by name."""
        return dict(self.model.named_modules()) if self.model is not None else {}

    @cached_property
    def ties(self) -> dict[str, str]:
        """Its weights that are other weights of it, and which, by the names of its class."""
        return dict(self.model.all_tied_weights_keys) if self.model is not None else {}

    def place(self, name: str) -> str:
        """Return a weight's name in the base; of one that is tied to another, in its class."""
        names = self._variants(name)
        held = [
            *(n for n in names if n in self.part.weights),
            *(n for n in names if n in self.ties),
        ]
        return held[0] if held else name

    def has(self, name: str) -> bool:
        """Return whether the base has a weight, or one that it is tied to."""
        place = self.place(name)
        return self.place(self.ties.get(place, place)) in self.part.weights

    def weight(self, name: str) -> Weight:
        """Return a weight that the base has."""
        place = self.place(name)
        if place in self.part.weights:
            return self.part.weights[place]
        return self.part.weights[self.place(self.ties[place])]

    def module(self, name: str) -> tuple[str, nn.Module | None]:
        """Return a module's name in its class, and the module; None: it has none of this name."""
        place = next((n for n in self._variants(name) if n in self.modules), name)
        return place, self.modules.get(place)

    def _variants(self, name: str) -> list[str]:
        prefix = self.model.base_model_prefix if self.model is not None else ""
        if not prefix:
            return [name]
        return [name, f"{prefix}.{name}", name.removeprefix(f"{prefix}.")]


def read_base(folder: Path, trust: bool) -> Checkpoint:
    """Read the model that adapters are for, of whatever layout."""
    return _layout(folder).read(folder, Reading(trust=trust))


def load_base(folder: Path, tower: str, device: str) -> PreTrainedModel:
    """Load it as transformers does, in fp32.

    Raises:
        ModelError: of a layout that transformers does not load.
    """
    layout = _layout(folder)
    if layout.load is None:
        raise ModelError(
            f"{folder}: {layout.name}: transformers does not load it; convert it to hf"
        )
    loaded = layout.load(folder, Reading(), device)
    return loaded[tower if tower in loaded else ONLY]


def check_named(folder: Path) -> None:
    """Refuse a base that adapters could not name: its model is more, or less, than one folder.

    Raises:
        ModelError: it is of such a layout.
    """
    layout = _layout(folder)
    if layout.name not in _NAMED:
        raise ModelError(
            f"{folder}: {layout.name}: adapters name a folder of their base that peft loads; "
            "convert it to hf, and give that (--base)"
        )


def base_part(base: Checkpoint, tower: str) -> Base:
    """Return the model of a base that adapters are for: its tower of that name, or its only one.

    Raises:
        ModelError: the adapters are for one model, and the base has two.
    """
    if tower not in base.parts and ONLY not in base.parts:
        raise ModelError(
            f"{base.path}: a base of two towers, for what is one model: give one of its folders"
        )
    return Base(base.parts.get(tower) or base.parts[ONLY])


def named_base(folder: Path) -> Path:
    """Return the folder of the base that adapters name; one of the hub is fetched.

    Of a tower within a sentence-transformers folder, that whole folder.

    Raises:
        ModelError: they name none, or it is not there.
    """
    said = read_config(folder)
    name, revision = said.get("base_model_name_or_path"), said.get("revision")
    if not name:
        raise ModelError(f"{folder / CONFIG}: it names no base_model_name_or_path: --base MODEL")
    try:
        found = located(str(name), revision)
    except ModelError as error:
        raise ModelError(
            f"{folder}: the base of its adapters (another by --base MODEL): {error}"
        ) from error
    whole = found.parent
    return whole if (whole / "modules.json").is_file() and _known(whole) else found


def _known(folder: Path) -> bool:
    from ragkit.checkpoints.layouts import LAYOUTS

    return any(layout.found(folder) for layout in LAYOUTS.values())


def _layout(folder: Path) -> "Layout":
    from ragkit.checkpoints.layouts import layout_of  # which lists the layout of adapters, too

    return layout_of(folder)
