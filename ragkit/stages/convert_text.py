"""What `ragkit convert` says: of a checkpoint, what it is and can become; and what it did."""

from collections import Counter
from pathlib import Path
from typing import Any

from rich.table import Table

import ragkit
from ragkit.checkpoints import proof
from ragkit.checkpoints.layouts import LAYOUTS, Layout
from ragkit.checkpoints.parts import Checkpoint, Writing
from ragkit.checkpoints.weights import short
from ragkit.errors import ModelError

ACCOUNT = "conversion.json"


def inspected(source: str, layout: Layout, checkpoint: Checkpoint, writing: Writing) -> Table:
    """Return what a checkpoint is, and what it can become."""
    table = Table(box=None, show_header=False, title=source, title_justify="left")
    table.add_column("", style="bold", no_wrap=True)
    table.add_column("")
    table.add_row("layout", f"{layout.name}: {layout.about}")
    for tower, part in checkpoint.parts.items():
        kind = (part.config.get("architectures") or [part.config.get("model_type", "unknown")])[0]
        table.add_row(tower or "model", f"{kind}, {len(part.all_weights):,} tensors")
    table.add_row("parameters", f"{proof.parameters(checkpoint):,}")
    table.add_row("precision", precisions(checkpoint))
    if checkpoint.left_out:
        reasons = Counter(left.reason for left in checkpoint.left_out)
        table.add_row("left out", ", ".join(f"{n} {reason}" for reason, n in reasons.items()))
    for name, other in LAYOUTS.items():
        if other.adapt is not None:
            table.add_row(f"to {name}", _possible(other, checkpoint, writing))
    return table


def account_of(
    source: str, layout: Layout, target: Layout, adapted: Checkpoint
) -> dict[str, Any]:  # fmt: skip
    """Return what a conversion did, but for its proof."""
    return {
        "ragkit": ragkit.__version__,
        "source": {"path": source, "layout": layout.name},
        "layout": target.name,
        "parameters": proof.parameters(adapted),
        "precision": precisions(adapted),
        "left_out": [
            {"file": left.file.name, "key": left.key, "reason": left.reason}
            for left in adapted.left_out
        ],
        "made": dict(adapted.made),
        "lost": list(adapted.lost),
    }


def told(account: dict[str, Any], output: Path) -> str:
    """Return what a conversion prints."""
    source = account["source"]
    lines = [
        f"{source['path']} ({source['layout']}) -> {output} ({account['layout']}): "
        f"{account['parameters']:,} parameters, {account['precision']}"
    ]
    reasons = Counter(left["reason"] for left in account["left_out"])
    lines += [f"left out: {n} ({reason})" for reason, n in reasons.items()]
    lines += [f"made: {name}: {how}" for name, how in account["made"].items()]
    lines += [f"this layout cannot say: {lost}" for lost in account["lost"]]
    if "tensors" not in account:
        return "\n".join([*lines, "not checked (check: false)"])
    lines.append(
        f"checked: {len(account['tensors']):,} tensors equal to their sources, none unused; "
        f"each with its SHA-256 in {output / ACCOUNT}"
    )
    outputs = account["outputs"]
    lines.append(
        f"outputs on random tokens: {_apart(outputs['largest_difference'])}"
        if outputs
        else f"outputs not compared: {account['not_run']}"
    )
    return "\n".join(lines)


def _possible(layout: Layout, checkpoint: Checkpoint, writing: Writing) -> str:
    assert layout.adapt is not None
    try:
        layout.adapt(checkpoint, writing)
    except ModelError as error:
        return f"no: {error}"
    return f"yes: {layout.about}"


def precisions(checkpoint: Checkpoint) -> str:
    """Return the precisions of a checkpoint's weights, and of how many each is."""
    counts = Counter(short(weight.dtype) for weight in checkpoint.named().values())
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{name} ({count} tensors)" for name, count in counts.most_common())


def _apart(difference: float) -> str:
    return f"at most {difference:.2g} apart" if difference else "equal"
