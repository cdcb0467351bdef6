"""OpenChatKit's checkpoints of training in pipeline stages: a folder a step, a file a stage.

`latest` names the step, `checkpoint_<step>/prank_<stage>_checkpoint.pt` is the state dict of the
stage's modules by their places in it. How many stages there are, and what is in each, is seen from
the files alone. Configuration and tokenizer are those of the model that was trained.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from transformers import PreTrainedModel

from ragkit.checkpoints.modules import PREFIX, Module, assembled, built, inner, settings_folder
from ragkit.checkpoints.parts import Checkpoint, Reading
from ragkit.checkpoints.weights import Contents, Stored, contents, values
from ragkit.data.files import read_json
from ragkit.errors import ModelError

NAME = "openchatkit-pipeline"
_STAGE = re.compile(r"prank_(0|[1-9]\d*)_checkpoint\.pt")
_STEP = re.compile(r"checkpoint_(\d+)")
_KEY = re.compile(rf"^{PREFIX}(\d+)\.(.+)$")
_SCHEDULED = "last_epoch"  # what torch's schedulers call the steps that they took


def found(path: Path) -> bool:
    """Return whether a folder has stages, or folders of steps that have."""
    if not path.is_dir():
        return False
    return bool(_stages(path) or _steps(path) or (_latest(path) or "").isdigit())


def read(path: Path, reading: Reading) -> Checkpoint:
    """Read the stages of the latest step, or of the step that the folder is.

    Raises:
        ModelError: no such step, stages that are missing, damaged or of another step, modules that
            are missing or too many, or tensors other than the configuration describes.
    """
    folder = _step_folder(path)
    stages = _stages(folder)
    if missing := sorted(set(range(max(stages) + 1)) - stages.keys()):
        names = ", ".join(f"prank_{stage}_checkpoint.pt" for stage in missing)
        raise ModelError(
            f"{folder}: expected stages 0 to {max(stages)}, found {len(stages)}; missing: {names}"
        )
    _check_steps(folder, sorted(stages))
    settings = settings_folder(path, reading)
    opened = {stages[stage]: contents(stages[stage]) for stage in sorted(stages)}
    modules = [module for file, one in opened.items() for module in _modules(file, one)]
    return assembled(path, settings, modules, opened)


def load(path: Path, reading: Reading, device: str) -> dict[str, PreTrainedModel]:
    """Load the stages of a step as one model."""
    return built(read(path, reading), device)


def _stages(folder: Path) -> dict[int, Path]:
    """Return the files of a step's stages, by number."""
    return {int(m[1]): f for f in folder.iterdir() if (m := _STAGE.fullmatch(f.name))}


def _steps(path: Path) -> list[str]:
    """Return the folders of steps, by number."""
    steps = {int(m[1]): f for f in path.iterdir() if (m := _STEP.fullmatch(f.name))}
    return [
        steps[step].name for step in sorted(steps) if steps[step].is_dir() and _stages(steps[step])
    ]


def _latest(path: Path) -> str | None:
    """Return what `latest` says; None: there is no such file."""
    file = path / "latest"
    return file.read_text(encoding="utf-8", errors="replace").strip() if file.is_file() else None


def _step_folder(path: Path) -> Path:
    """Return the folder of the step that is meant.

    Raises:
        ModelError: `latest` is missing, no number, or names a step that is not there.
    """
    if _stages(path):
        return path
    latest, there = _latest(path), ", ".join(_steps(path)) or "none"
    if latest is None:
        raise ModelError(f"{path}: no file `latest` that names the step; give one of {there}")
    if not latest.isdigit():
        raise ModelError(f"{path / 'latest'}: expected a step, found {latest[:40]!r}")
    folder = path / f"checkpoint_{latest}"
    if not folder.is_dir() or not _stages(folder):
        raise ModelError(
            f"{path / 'latest'}: expected stages in {folder.name}, found none; folders with "
            f"stages: {there}"
        )
    return folder


def _check_steps(folder: Path, stages: list[int]) -> None:
    """Make sure that a folder's files are of one step, as far as they say.

    The folder's name and meta.json say it, and what stages' schedulers have beside them.

    Raises:
        ModelError: they are of different steps.
    """
    named, meta = _STEP.fullmatch(folder.name), folder / "meta.json"
    if named and meta.is_file():
        record = read_json(meta)
        said = record.get("step") if isinstance(record, dict) else record
        if said != int(named[1]):
            raise ModelError(
                f"{meta}: expected step {int(named[1])}, found {said!r}: is it another's?"
            )
    files = [folder / f"prank_{stage}_scheduler.pt" for stage in stages]
    taken = {file.name: values(file).get(_SCHEDULED) for file in files if file.is_file()}
    if len(set(taken.values())) > 1:
        listed = ", ".join(f"{name} {steps}" for name, steps in taken.items())
        raise ModelError(
            f"{folder}: stages of different steps are mixed: expected as many steps in each "
            f"scheduler, found {listed}"
        )


def _modules(file: Path, opened: Contents) -> list[Module]:
    """Return the modules of a stage in their order.

    Raises:
        ModelError: a place without a module.
    """
    places: dict[int, dict[str, Stored]] = {}
    for key, stored in opened.tensors.items():
        if match := _KEY.match(key):
            places.setdefault(int(match[1]), {})[inner(match[2])] = stored
    _check_places(file, places)
    return [Module(file, f"{file.name}, {i}.", places[i]) for i in sorted(places)]


def _check_places(file: Path, places: Mapping[int, object]) -> None:
    if missing := sorted(set(range(max(places, default=-1) + 1)) - places.keys()):
        listed = ", ".join(f"{i}." for i in missing)
        raise ModelError(
            f"{file}: expected modules 0. to {max(places)}., found {len(places)}; missing: {listed}"
        )
