"""Tables of metrics for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

Cell = Mapping[str, Any]


def metric_table(
    title: str, rows: Mapping[str, Mapping[str, Cell]], metrics: Sequence[str]
) -> Table:
    """Return a table of means with their 95% intervals, a row a system or slice."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for metric in metrics:
        table.add_column(metric, justify="right", no_wrap=True)
    for name, cells in rows.items():
        table.add_row(name, *(estimate(cells.get(metric)) for metric in metrics))
    return table


def difference_table(
    title: str, rows: Mapping[str, Mapping[str, Cell]], metrics: Sequence[str]
) -> Table:
    """Return a table of paired differences with their 95% intervals; * where they exclude 0."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for metric in metrics:
        table.add_column(metric, justify="right", no_wrap=True)
    for name, cells in rows.items():
        table.add_row(name, *(_difference(cells[metric]) for metric in metrics))
    return table


def estimate(cell: Cell | None) -> str:
    """Return `0.812 [0.780-0.842]` for a cell, without the interval where there is none."""
    if cell is None or cell["mean"] is None:
        return "-"
    if cell["ci95"] is None:
        return f"{cell['mean']:.3f}"
    low, high = cell["ci95"]
    return f"{cell['mean']:.3f}\n{_bound(low)} to {_bound(high)}"


def _difference(cell: Cell) -> str:
    if cell["ci95"] is None:
        return f"{cell['mean']:+.3f}"
    low, high = cell["ci95"]
    sure = " *" if low > 0 or high < 0 else ""
    return f"{cell['mean']:+.3f}{sure}\n{low:+.3f} to {high:+.3f}"


def _bound(value: float) -> str:
    return f"{value:.3f}"
