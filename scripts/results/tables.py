"""Print a comparison.json as Markdown tables, for docs/results.md and the README.

python scripts/results/tables.py runs/quickstart/compare/comparison.json
"""

import json
import sys
from pathlib import Path
from typing import Any

SHOWN = {
    "retrieval": ["recall@1", "recall@5", "recall@10", "ndcg@10", "mrr@10"],
    "answers": ["f1", "rouge_l", "em"],
}
SLICED = {"retrieval": "ndcg@10", "answers": "f1"}


def mean(cell: dict[str, Any]) -> str:
    """Return `0.812 (0.780 to 0.842)`."""
    low, high = cell["ci95"]
    return f"{cell['mean']:.3f} ({low:.3f} to {high:.3f})"


def difference(cell: dict[str, Any]) -> str:
    """Return `+0.041 (+0.012 to +0.070) *`, the star where the interval excludes 0."""
    low, high = cell["ci95"]
    star = " \\*" if low > 0 or high < 0 else ""
    return f"{cell['mean']:+.3f} ({low:+.3f} to {high:+.3f}){star}"


def table(columns: list[str], rows: dict[str, list[str]]) -> str:
    """Return a Markdown table."""
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows.items()]
    return "\n".join(lines) + "\n"


def main(path: Path) -> None:
    """Print the tables of every kind of evaluation."""
    for kind, result in json.loads(path.read_text()).items():
        systems, base, sliced = result["systems"], result["baseline"], SLICED[kind]
        metrics = [m for m in SHOWN[kind] if m in systems[base]]
        first = systems[base][metrics[0]]
        print(f"{kind}: {first['n']} questions from {first['clusters']} documents\n")
        print(table(metrics, {n: [mean(s[m]) for m in metrics] for n, s in systems.items()}))
        print(f"Paired difference from {base} (\\* its 95% interval excludes 0)\n")
        gains = result["differences"]
        print(table(metrics, {n: [difference(g[m]) for m in metrics] for n, g in gains.items()}))
        parts = result["slices"]
        if parts:
            names = [f"{n} ({p['systems'][base][sliced]['n']})" for n, p in parts.items()]
            rows = {
                n: [difference(p["differences"][n][sliced]) for p in parts.values()] for n in gains
            }
            print(f"The same for {sliced}, by slice\n")
            print(table(names, rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
