"""Checkpoints of torch.distributed.checkpoint, as FSDP writes them, read tensor by tensor.

A file a process holds pieces of tensors, and `.metadata` says where each is. That is a pickle: what
of torch's own is needed in it is admitted and nothing else. Pieces are joined by torch's planner.
"""

import math
import pickle
import warnings
from collections.abc import Mapping
from enum import Enum
from pathlib import Path, PurePath
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from ragkit.checkpoints.consolidated import STATE, described, is_whole_beside
from ragkit.checkpoints.parts import ONLY, Checkpoint, LeftOut, Reading
from ragkit.checkpoints.weights import Stored, Weight
from ragkit.errors import ModelError

METADATA, _DATA = ".metadata", "*.distcp"
_INNER = "pytorch_model_fsdp_0"  # where accelerate puts the model below a Trainer's checkpoint
_OPTIMIZERS = ("optimizer", "optim", "optimizers")

# the classes that torch writes down there, by module
_ADMITTED = {
    "torch.distributed.checkpoint.metadata": {
        "Metadata", "MetadataIndex", "StorageMeta", "TensorStorageMetadata", "TensorProperties",
        "BytesStorageMetadata", "ChunkStorageMetadata", "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size"},
    "collections": {"OrderedDict"},
}  # fmt: skip


def found(path: Path) -> bool:
    """Return whether a folder is such a checkpoint, or a Trainer's that has one in it.

    Not a Trainer's that has the weights in fp32 beside it.
    """
    folder = _folder(path)
    return folder is not None and (folder == path or not is_whole_beside(path))


def read(path: Path, reading: Reading) -> Checkpoint:
    """Read the model; the optimizer's state is left out.

    Raises:
        ModelError: code in it, missing or damaged files, no configuration, or weights that it
            does not have.
    """
    folder = _folder(path)
    assert folder is not None, "`found` has seen it"
    metadata = _metadata(folder / METADATA)
    weights, stored, left_out = {}, list[Stored](), list[LeftOut]()
    for key, entry in metadata.state_dict_metadata.items():
        if not isinstance(entry, TensorStorageMetadata):
            left_out.append(LeftOut(folder / METADATA, key, "no tensor"))
            continue
        pieces = _pieces(folder, key, entry, metadata.storage_data)
        stored += pieces
        *holders, name = (metadata.planner_data or {}).get(key, (key,))
        if not holders or holders[-1] == "model":
            weights[str(name)] = _weight(folder, metadata, key, pieces)
        elif any(holder in _OPTIMIZERS for holder in holders):
            left_out += [LeftOut(piece.file, piece.key, STATE) for piece in pieces]
    home = path.parent if path.name == _INNER else path
    part = described(path, home, weights, reading)
    return Checkpoint(path, {ONLY: part}, tuple(stored), tuple(left_out))


def _folder(path: Path) -> Path | None:
    for folder in (path, path / _INNER):
        if (folder / METADATA).is_file() or any(folder.glob(_DATA)):
            return folder
    return None


class _Unpickler(pickle.Unpickler):
    """Loads the description of a checkpoint, and refuses whatever else there is."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "pathlib" and name in ("PosixPath", "WindowsPath"):
            return PurePath  # where it was written, on whatever system
        if (module, name) == ("builtins", "getattr"):
            return _member
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_dtype or name in _ADMITTED.get(module, ()):
            return super().find_class(module, name)
        raise ModelError(
            f"refused: beside the places of tensors it holds {module}.{name}, and loading that "
            "could run code"
        )


def _member(kind: Any, name: Any) -> Any:
    """Return a member of an enumeration, which some releases of Python 3.11 pickle as getattr."""
    if not (isinstance(kind, type) and issubclass(kind, Enum) and name in kind.__members__):
        raise ModelError(
            f"refused: beside the places of tensors it holds builtins.getattr of {name!r}, and "
            "loading that could run code"
        )
    return kind[name]


def _metadata(file: Path) -> Metadata:
    """Return where a checkpoint's tensors are.

    Raises:
        ModelError: no such file, a damaged one, or one with anything else in it.
    """
    if not file.is_file():
        raise ModelError(f"{file}: not there; it is written last: was the saving finished?")
    try:
        with file.open("rb") as opened:
            metadata = _Unpickler(opened).load()
        if not isinstance(metadata, Metadata):
            raise TypeError(f"holds a {type(metadata).__name__}")
        assert metadata.storage_data is not None, "no places of tensors"
    except ModelError as error:
        raise ModelError(f"{file}: {error}") from error
    except Exception as error:  # a damaged pickle may raise anything
        raise ModelError(f"{file}: cannot be read ({error}): is it whole?") from error
    return metadata


def _pieces(
    folder: Path, key: str, entry: TensorStorageMetadata, places: Mapping[MetadataIndex, Any]
) -> list[Stored]:
    """Return the pieces of a tensor, by where they begin in it.

    Raises:
        ModelError: a file that is missing or cut off, or pieces that are not all of the tensor.
    """
    pieces = []
    for chunk in entry.chunks:
        place = places.get(MetadataIndex(key, chunk.offsets))
        if place is None:
            raise ModelError(f"{folder / METADATA}: {key}: no place of its piece {chunk.offsets}")
        file, end = folder / place.relative_path, place.offset + place.length
        size = file.stat().st_size if file.is_file() else None
        if size is None or size < end:
            held = "not there" if size is None else f"it has {size:,} bytes: is it whole?"
            raise ModelError(f"{file}: {key} is in its bytes {place.offset:,} to {end:,}; {held}")
        where = "" if len(entry.chunks) == 1 else f" from {tuple(chunk.offsets)}"
        pieces.append(Stored(file, key + where, tuple(chunk.sizes), entry.properties.dtype))
    count, expected = sum(math.prod(p.shape) for p in pieces), math.prod(entry.size)
    if count != expected:
        raise ModelError(
            f"{folder / METADATA}: {key}: its pieces have {count:,} numbers, expected {expected:,}"
        )
    return pieces


def _weight(folder: Path, metadata: Metadata, key: str, pieces: list[Stored]) -> Weight:
    """Return the tensor of a key; reading it takes its own memory and that of one piece."""
    entry = metadata.state_dict_metadata[key]
    assert isinstance(entry, TensorStorageMetadata)
    size, dtype = tuple(entry.size), entry.properties.dtype

    def read() -> Tensor:
        state: dict[str, Any] = {key: torch.empty(size, dtype=dtype)}
        planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that one process reads
                load(state, storage_reader=_Reader(folder, metadata), planner=planner, no_dist=True)
        except (CheckpointException, RuntimeError, ValueError, OSError) as error:
            files = ", ".join(sorted({piece.file.name for piece in pieces}))
            raise ModelError(f"{folder}: {key} in {files}: cannot be read: is it whole?") from error
        tensor: Tensor = state[key]
        return tensor

    how = f"joined from {len(pieces)} pieces" if len(pieces) > 1 else ""
    return Weight(size, dtype, tuple(pieces), read, how)


class _Reader(FileSystemReader):
    """Torch's reader, without a second look at `.metadata`."""

    def __init__(self, folder: Path, metadata: Metadata) -> None:
        super().__init__(folder)
        self.known = metadata

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        """Return what was read already."""
        return self.known
