"""Tables of metrics for the terminal."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

Cell = Mapping[str, Any]


def metric_table(
    title: str, rows: Mapping[str, Mapping[str, Cell]], metrics: Sequence[str]
) -> Group:
    """Return a table of means with their 95% intervals, a row a system or slice."""
    return _table(title, rows, metrics, estimate)


def difference_table(
    title: str, rows: Mapping[str, Mapping[str, Cell]], metrics: Sequence[str]
) -> Group:
    """Return a table of paired differences with their 95% intervals; * where they exclude 0."""
    return _table(title, rows, metrics, _difference)


def _table(
    title: str,
    rows: Mapping[str, Mapping[str, Cell]],
    columns: Sequence[str],
    text: Callable[[Cell | None], str],
) -> Group:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", overflow="fold")
    for name, cells in rows.items():
        table.add_row(name, *(text(cells.get(column)) for column in columns))
    return Group(Text(title), table)  # as a table's own title it would wrap at the table's width


def estimate(cell: Cell | None) -> str:
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
