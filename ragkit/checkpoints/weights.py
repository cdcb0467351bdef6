"""The tensors of a checkpoint, one at a time: where each is kept, and what it is made of.

They are read from safetensors files, or from files of torch.save with nothing but data in them: a
pickle that would run code is refused. Names and layers are `ragkit.checkpoints.layouts`' business.
"""

import hashlib
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ragkit.errors import ModelError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_SHORT = {dtype: name for name, dtype in PRECISIONS.items()}
# a mapped pickle is opened again after so many bytes: pages once read count as memory
_KEPT_BYTES = 1 << 28
# how torch names what it does not load as data
_FORBIDDEN = re.compile(r"GLOBAL ([\w.]+)|Unsupported class ([\w.]+)")


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor in a file, by its key there."""

    file: Path
    key: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    def read(self) -> Tensor:
        """Return the tensor; from a file that maps, not yet in memory."""
        if self.file.suffix == ".safetensors":
            with _safe(self.file) as opened:
                tensor: Tensor = opened.get_tensor(self.key)
                return tensor
        return _mapped.tensor(self.file, self.key)


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor of a model that is still to be read.

    sources: what it is made of
    how: what was done to them; "": nothing
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    sources: tuple[Stored, ...]
    read: Callable[[], Tensor]
    how: str = ""

    @property
    def bytes(self) -> int:
        """Its size in memory and in a file."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Contents:
    """What a file holds.

    others: what is no tensor, by key: a word on what it is
    """

    tensors: dict[str, Stored] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)


def contents(file: Path) -> Contents:
    """Return what a file of weights holds, without reading it whole.

    Mappings within a torch file are gone into: their keys are joined by dots.

    Raises:
        ModelError: no such file, a damaged one, or a pickle with code in it.
    """
    if file.suffix != ".safetensors":
        found = _mapped.open(file)
        tensors = {k: v for k, v in found.items() if isinstance(v, Tensor)}
        return Contents(
            {k: Stored(file, k, tuple(v.shape), v.dtype) for k, v in tensors.items()},
            {k: type(v).__name__ for k, v in found.items() if k not in tensors},
        )
    with _safe(file) as opened:
        listed = {key: opened.get_slice(key) for key in opened.keys()}  # noqa: SIM118
        return Contents(
            {
                key: Stored(file, key, tuple(part.get_shape()), _dtype(part.get_dtype(), file, key))
                for key, part in listed.items()
            }
        )


def values(file: Path) -> dict[str, Any]:
    """Return what a torch file holds beside tensors, by key, read as `contents` reads it."""
    return {k: v for k, v in _flat(_load(file)).items() if not isinstance(v, Tensor)}


def write_torch(weights: Mapping[str, Weight], file: Path, key: str = "") -> None:
    """Write weights as a file of torch.save, all of them in memory at a time if not mapped.

    key: of the mapping that holds them; "": they are all that there is
    Raises:
        OSError: it cannot be written.
    """
    tensors = {name: _own(weight.read()) for name, weight in weights.items()}
    try:
        with file.open("wb") as f:  # given a path, torch hides why it cannot write
            torch.save({key: tensors} if key else tensors, f)
    except RuntimeError as error:  # what torch raises on a full disk
        raise OSError(f"{file.name}: {error}: is the disk full?") from error


def write_safetensors(weights: Mapping[str, Weight], file: Path) -> None:
    """Write weights as a file of safetensors, all of them in memory at a time.

    Raises:
        OSError: it cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    taken: set[int] = set()  # it refuses tensors that share their memory, as torch files may have
    for key, weight in weights.items():
        tensor = weight.read().contiguous()
        memory = tensor.untyped_storage().data_ptr()
        tensors[key] = tensor.clone() if memory in taken else tensor
        taken.add(memory)
    try:
        save_file(tensors, file, metadata={"format": "pt"})
    except SafetensorError as error:  # what it raises on a full disk
        raise OSError(f"{file.name}: {error}") from error
    file.chmod(0o644)


def _own(tensor: Tensor) -> Tensor:
    """Return a tensor whose storage is its own: torch.save writes the whole storage of a view."""
    tensor = tensor.contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def as_stored(stored: Stored) -> Weight:
    """Return a stored tensor as a weight, unchanged."""
    return Weight(stored.shape, stored.dtype, (stored,), stored.read)


def cast(weight: Weight, dtype: torch.dtype, name: str) -> Weight:
    """Return a weight in another precision; of whole numbers, the same.

    name: for messages
    Raises:
        ModelError: it is quantised; when it is read, a value that the precision cannot hold.
    """
    if not weight.dtype.is_floating_point or weight.dtype == dtype:
        return weight
    if weight.dtype.itemsize == 1:
        raise ModelError(
            f"{name}: {short(weight.dtype)}: it is quantised, and in {short(dtype)} without its "
            "scale it would be another number; leave --dtype away"
        )

    def read() -> Tensor:
        before = weight.read()
        after = before.to(dtype)
        if (before.isfinite() & ~after.isfinite()).any():
            largest = before[before.isfinite()].abs().max().item()
            raise ModelError(
                f"{name}: its largest value, {largest:g}, is beyond "
                f"{short(dtype)} (up to {torch.finfo(dtype).max:g}): choose bf16 or fp32"
            )
        return after

    how = f"{short(weight.dtype)} to {short(dtype)}"
    joined = f"{weight.how}, {how}" if weight.how else how
    return replace(weight, dtype=dtype, read=read, how=joined)


def checksum(tensor: Tensor) -> str:
    """Return the SHA-256 of a tensor's bytes."""
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(flat.numpy().data).hexdigest()


def short(dtype: torch.dtype) -> str:
    """Return the name of a precision, as --dtype has it."""
    return _SHORT.get(dtype, str(dtype).removeprefix("torch."))


class _Mapped:
    """The torch file that was read last, mapped into memory, and the bytes taken from it."""

    def __init__(self) -> None:
        self.file, self.found, self.taken = Path(), dict[str, Any](), 0

    def open(self, file: Path) -> dict[str, Any]:
        self.file, self.found, self.taken = file, _flat(_load(file)), 0
        return self.found

    def tensor(self, file: Path, key: str) -> Tensor:
        if file != self.file or self.taken > _KEPT_BYTES:
            self.open(file)
        tensor: Tensor = self.found[key]
        self.taken += tensor.nbytes
        return tensor


_mapped = _Mapped()


def _load(file: Path) -> object:
    try:
        with warnings.catch_warnings():
            # of a pickle's protocol, where what matters is what is in it
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            return torch.load(file, map_location="cpu", mmap=_is_zip(file), weights_only=True)
    except UnpicklingError as error:
        named = _FORBIDDEN.search(str(error))
        reason = "no file of torch.save, or a damaged one"
        if named:
            code = named[1] or named[2]
            reason = f"refused: beside tensors it holds {code}, and loading that would run code"
        raise ModelError(f"{file}: {reason}") from error
    except (RuntimeError, ValueError, EOFError, OSError, KeyError) as error:
        raise _damaged(file, error) from error


def _is_zip(file: Path) -> bool:
    """Return whether a torch file is of the form that can be mapped, torch's since 1.6."""
    try:
        with file.open("rb") as f:
            return f.read(2) == b"PK"
    except OSError as error:
        raise ModelError(f"{file}: {error.strerror}") from error


@contextmanager
def _safe(file: Path) -> Iterator[Any]:
    """Open a safetensors file; what is wrong with it is said with its name."""
    try:
        opened: Any = safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise _damaged(file, error) from error
    with opened as inside:
        yield inside


def _damaged(file: Path, error: Exception) -> ModelError:
    reason = str(error).strip().split("\n")[0]
    size = f"{file.stat().st_size:,} bytes" if file.is_file() else "no such file"
    return ModelError(f"{file}: cannot be read ({size}; {reason}): is it whole?")


def _flat(value: object) -> dict[str, Any]:
    """Return the values of nested mappings by their keys, joined by dots."""
    if not isinstance(value, Mapping):
        return {"": value}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            found |= {f"{key}.{k}": v for k, v in _flat(inner).items()}
        else:
            found[str(key)] = inner
    return found


_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "U16": torch.uint16, "U32": torch.uint32, "U64": torch.uint64,
    "BOOL": torch.bool, "C64": torch.complex64, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu,
}  # fmt: skip


def _dtype(name: str, file: Path, key: str) -> torch.dtype:
    if name not in _DTYPES:
        raise ModelError(f"{file}: {key}: tensors of type {name} are unknown to ragkit")
    return _DTYPES[name]
