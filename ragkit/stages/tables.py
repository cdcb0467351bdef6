"""Tables of estimates, and how they look on a terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

Cell = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """Means with their 95% intervals, a row a system or slice; a row may have no cell of a column.

    paired: the cells are paired differences
    """

    title: str
    columns: Sequence[str]
    rows: Mapping[str, Mapping[str, Cell]]
    paired: bool = False

    def printed(self) -> Group:
        """Return what a terminal shows, each interval below its mean; * where one excludes 0."""
        table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("", no_wrap=True)
        text = _difference if self.paired else _mean
        for column in self.columns:
            table.add_column(column, justify="right", overflow="fold")
        for name, cells in self.rows.items():
            table.add_row(name, *(text(cells.get(column)) for column in self.columns))
        # as a table's own title it would wrap at the table's width
        return Group(Text(self.title), table)


def _mean(cell: Cell | None) -> str:
    """Return a mean with its interval below, `0.812` and `.780-.842`."""
    if cell is None or cell["mean"] is None:
        return "-"
    if cell["ci95"] is None:
        return f"{cell['mean']:.3f}"
    low, high = cell["ci95"]
    return f"{cell['mean']:.3f}\n{_bound(low)}-{_bound(high)}"


def _difference(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    if cell["ci95"] is None:
        return f"{cell['mean']:+.3f}"
    low, high = cell["ci95"]
    sure = " *" if low > 0 or high < 0 else ""
    return f"{cell['mean']:+.3f}{sure}\n{_bound(low, '+')} {_bound(high, '+')}"


def _bound(value: float, sign: str = "-") -> str:
    return f"{value:{sign}.3f}".replace("0.", ".", 1)
