"""The order of the layers (DESIGN, "Layout and layers"), held by reading every import."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import ragkit

ROOT = Path(ragkit.__file__).parent
ROWS = (
    "cli", "stages", "runs", "serving", "qa", "training", "evaluation", "rag", "retrieval",
    "checkpoints", "models", "data", "config",
)  # fmt: skip
ANYWHERE = ("errors", "log", "__init__")
MODULES = sorted(ROOT.rglob("*.py"))


def row_of(parts: tuple[str, ...]) -> str:
    """Return the row of a module, by the parts of its path below ragkit."""
    name = parts[0].removesuffix(".py") if parts else "__init__"
    return "cli" if name == "__main__" else name


def imports(tree: ast.Module) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield (line, parts below ragkit) of every import from ragkit, names included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                parts = tuple(alias.name.split("."))
                if parts[0] == "ragkit":
                    yield node.lineno, parts[1:]
        elif isinstance(node, ast.ImportFrom):
            parts = tuple((node.module or "").split("."))
            assert node.level == 0, f"line {node.lineno}: a relative import"
            if parts[0] == "ragkit":
                for alias in node.names:
                    yield node.lineno, (*parts[1:], alias.name)


def target_row(parts: tuple[str, ...]) -> str:
    """Return the row of what is imported; a plain name of the package itself is `__init__`'s."""
    is_module = bool(parts) and ((ROOT / parts[0]).is_dir() or (ROOT / f"{parts[0]}.py").is_file())
    return row_of(parts) if is_module else "__init__"


def violations(row: str, source: str) -> list[str]:
    """Return the imports of a module in `row` that its row may not have."""
    found = []
    for line, parts in imports(ast.parse(source)):
        target = target_row(parts)
        if target in ANYWHERE or target == row:
            continue
        if row in ANYWHERE or ROWS.index(target) < ROWS.index(row):
            found.append(f"line {line}: {'.'.join(parts)}")
    return found


@pytest.mark.parametrize("module", MODULES, ids=lambda m: str(m.relative_to(ROOT)))
def test_a_module_imports_nothing_from_a_row_above_its_own(module: Path) -> None:
    row = row_of(module.relative_to(ROOT).parts)
    assert violations(row, module.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("module", MODULES, ids=lambda m: str(m.relative_to(ROOT)))
def test_a_module_imports_no_private_name_of_another(module: Path) -> None:
    found = imports(ast.parse(module.read_text(encoding="utf-8")))
    private = [
        (line, ".".join(parts))
        for line, parts in found
        if any(p.startswith("_") and not p.endswith("__") for p in parts)
    ]
    assert private == []


def test_every_module_is_in_a_row() -> None:
    rows = {row_of(m.relative_to(ROOT).parts) for m in MODULES}
    assert rows - {*ROWS, *ANYWHERE} == set()


@pytest.mark.parametrize(
    ("row", "source"),
    [
        ("data", "from ragkit.stages import STAGES"),
        ("data", "import ragkit.stages.chunk"),
        ("models", "def late():\n    from ragkit import runs"),
        ("training", "from ragkit.qa.prompts import chat"),
        ("config", "if TYPE_CHECKING:\n    from ragkit.data.schema import Passage"),
        ("errors", "from ragkit.config import load"),
    ],
)
def test_an_import_from_above_is_seen_wherever_it_stands(row: str, source: str) -> None:
    assert len(violations(row, source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "import ragkit",
        "from ragkit import __version__, log",
        "from ragkit.errors import DataError",
        "from ragkit.retrieval.bm25 import Bm25Searcher",
        "import json",
    ],
)
def test_an_import_from_below_or_beside_is_none(source: str) -> None:
    assert violations("retrieval", source) == []
