"""Many short strings in little memory."""

from array import array


class Strings:
    """A list of strings that is appended to, of which each takes its UTF-8 bytes and eight more."""

    def __init__(self) -> None:
        self._bytes, self._ends = bytearray(), array("Q", [0])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, i: int) -> str:
        raw = self._bytes[self._ends[i] : self._ends[i + 1]]
        return raw.decode("utf-8", "surrogatepass")

    def append(self, text: str) -> None:
        """Add a string at the end."""
        self._bytes += text.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._bytes))
