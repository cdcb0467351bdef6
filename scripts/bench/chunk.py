"""Speed and memory of `ragkit chunk` on a folder and on one CSV file, at two sizes.

    python scripts/bench/chunk.py [SMALL_MB LARGE_MB]     (20 and 200; some ten minutes)

Makes prose of the words of this repository's documentation in a temporary folder, runs the command
on it in processes of their own, and prints MB of input a second of one core, peak memory, and how
many bytes of memory one more byte of input takes. Exits with 1 where a target is missed.
"""

import csv
import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
MEGABYTE = 1_000_000
LEAST_MB_PER_S = 1.0  # at the larger size, the whole command
MOST_MEMORY_PER_INPUT = 0.3  # bytes of memory for each byte of input
DOCUMENT_BYTES = 20_000


def words() -> list[str]:
    """Return the words of the documentation, as often as they stand there."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return re.findall(r"[A-Za-z]{2,}", " ".join(page.read_text() for page in pages))


def documents(n_bytes: int) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yield (title, sections) until there are `n_bytes`."""
    rng, vocabulary, made, number = random.Random(0), words(), 0, 0
    while made < n_bytes:
        sections: list[tuple[str, str]] = []
        size = 0
        while size < DOCUMENT_BYTES:
            text = "\n\n".join(paragraph(rng, vocabulary) for _ in range(rng.randrange(1, 6)))
            sections.append((" ".join(rng.choices(vocabulary, k=3)).capitalize(), text))
            size += len(text)
        number += 1
        made += size
        yield f"Page {number}", sections


def paragraph(rng: random.Random, vocabulary: list[str]) -> str:
    """Return three to eight sentences."""
    return " ".join(
        " ".join(rng.choices(vocabulary, k=rng.randrange(6, 24))).capitalize() + "."
        for _ in range(rng.randrange(3, 9))
    )


def as_folder(path: Path, n_bytes: int) -> None:
    """Write Markdown files, a hundred a folder."""
    for i, (title, sections) in enumerate(documents(n_bytes)):
        file = path / f"part-{i // 100}" / f"page-{i}.md"
        file.parent.mkdir(parents=True, exist_ok=True)
        body = "".join(f"## {name}\n\n{text}\n\n" for name, text in sections)
        file.write_text(f"# {title}\n\n{body}")


def as_csv(path: Path, n_bytes: int) -> None:
    """Write one CSV file, a row a section."""
    with path.open("w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(["title", "section", "text"])
        for title, sections in documents(n_bytes):
            writer.writerows((title, name, text) for name, text in sections)


def measure(source: Path, output: Path) -> tuple[float, int]:
    """Run `ragkit chunk`; return its seconds on one core and its peak memory in bytes."""
    command = [sys.executable, "-m", "ragkit", "chunk", str(source), "-o", str(output)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as child:
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"ragkit chunk {source} failed with {child.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit


def bytes_of(path: Path) -> int:
    """Return the size of a file, or of all files below a folder."""
    return sum(p.stat().st_size for p in [path, *path.rglob("*")] if p.is_file())


def compared(name: str, make: Callable[[Path, int], None], sizes: list[int]) -> bool:
    """Measure one kind of input at two sizes; say whether the targets are met."""
    found = []
    for megabytes in sizes:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / name
            make(source, megabytes * MEGABYTE)
            n_bytes = bytes_of(source)
            seconds, peak = measure(source, Path(folder) / "run")
        found.append((n_bytes, peak))
        rate = n_bytes / seconds / MEGABYTE
        print(
            f"{name}: {n_bytes / MEGABYTE:,.0f} MB in {seconds:,.0f} s of one core, "
            f"{rate:.2f} MB/s, peak memory {peak / MEGABYTE:,.0f} MB",
            flush=True,
        )
    (small, before), (large, after) = found
    slope = (after - before) / (large - small)
    met = rate >= LEAST_MB_PER_S and slope <= MOST_MEMORY_PER_INPUT
    print(
        f"{name}: {slope:.2f} bytes of memory a byte of input (at most {MOST_MEMORY_PER_INPUT}), "
        f"{rate:.2f} MB/s (at least {LEAST_MB_PER_S}): {'met' if met else 'MISSED'}",
        flush=True,
    )
    return met


def main() -> None:
    """Measure both kinds of input."""
    sizes = [int(size) for size in sys.argv[1:]] or [20, 200]
    if len(sizes) != 2 or not 0 < sizes[0] < sizes[1]:
        sys.exit("two sizes in megabytes, the smaller first")
    met = [compared("folder", as_folder, sizes), compared("rows.csv", as_csv, sizes)]
    sys.exit(not all(met))


if __name__ == "__main__":
    main()
