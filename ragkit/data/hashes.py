"""Many 64-bit hashes in little memory: sorted arrays, with the latest in a dictionary."""

import numpy as np
from numpy.typing import NDArray

_RECENT = 1 << 12


class HashTable:
    """From hashes to numbers; 16 bytes of each, where a dict takes a hundred.

    A key is any integer; it is known by its lower 64 bits.
    """

    def __init__(self) -> None:
        self._recent: dict[int, int] = {}
        self._keys: NDArray[np.uint64] = np.empty(0, np.uint64)
        self._values: NDArray[np.int64] = np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self._keys) + len(self._recent)

    def __contains__(self, key: int) -> bool:
        return self.get(key) is not None

    def get(self, key: int) -> int | None:
        """Return the number of a hash; None where it was not added."""
        key &= (1 << 64) - 1
        if key in self._recent:
            return self._recent[key]
        wanted = np.uint64(key)
        place = int(np.searchsorted(self._keys, wanted))
        found = place < len(self._keys) and self._keys[place] == wanted
        return int(self._values[place]) if found else None

    def add(self, key: int, value: int = 0) -> None:
        """Add a hash that is not there yet, with its number."""
        self._recent[key & ((1 << 64) - 1)] = value
        if len(self._recent) > max(_RECENT, len(self._keys) // 16):
            self._sort()

    def _sort(self) -> None:
        keys = np.fromiter(self._recent, np.uint64, len(self._recent))
        values = np.fromiter(self._recent.values(), np.int64, len(self._recent))
        self._recent = {}
        order = np.argsort(keys)
        places = np.searchsorted(self._keys, keys[order])
        self._keys = np.insert(self._keys, places, keys[order])
        self._values = np.insert(self._values, places, values[order])
