"""Run directories written by hand, as ragkit's commands leave them, and a report of them."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from ragkit.data.files import sha256_file, write_json, write_jsonl, write_trec_run
from ragkit.evaluation.ranking import evaluate

NASTY = 'ends </script><script>document.title="broken"</script> & <b>bold</b> <!-- 额定电压'
METRICS = ["ndcg@10", "recall@1", "recall@5", "recall@10", "mrr@10"]
DEPTH = 12


@dataclass
class Runs:
    """Makes run directories in a folder.

    Question q0 asks for passage p0 of document d0, q1 for p1 of the same, q2 for p2 of d1, ...
    """

    folder: Path
    corpus: Path = field(init=False)

    def __post_init__(self) -> None:
        self.corpus = self.folder / "corpus.jsonl"
        passages = ({"id": f"p{i}", "title": NASTY, "text": f"{i} {NASTY}"} for i in range(100))
        write_jsonl(self.corpus, passages)

    def account(self, name: str, command: str, status: str = "done", **config: Any) -> Path:
        """Write the run.json of a run directory, which may have anything else in it."""
        path = self.folder / name
        write_json(
            path / "run.json",
            {
                "command": command,
                "config": {"seed": 5, **config},
                "inputs": {
                    "corpus": {"path": str(self.corpus), "sha256": sha256_file(self.corpus)}
                },
                "code": "0.1.0+abcdef",
                "starts": [{"argv": ["ragkit", command, name], "time": "2026-01-01T00:00:00"}],
                "processes": 1,
                "provenance": {"python": "3.11", "platform": "Linux", "packages": {"torch": "2.8"},
                               "git": {"commit": "c0ffee" * 7, "dirty": True}},
                "timings": {"total": 12.5},
                "status": status,
                "finished": "2026-01-01T00:01:00",
                "device": "cpu (2 threads)",
            },
        )  # fmt: skip
        return path

    def retriever(self, name: str, ranks: Sequence[int | None], **config: Any) -> Path:
        """Write an evaluated retriever that has each question's positive at a rank, or nowhere."""
        path = self.account(name, "eval-retriever", **config)
        ranked = {f"q{i}": _ranking(i, rank) for i, rank in enumerate(ranks)}
        sheet = evaluate({f"q{i}": {f"p{i}": 1} for i in range(len(ranks))}, ranked, METRICS)
        write_trec_run(path / "run.trec", ranked)
        write_jsonl(
            path / "per_query.jsonl",
            (
                {
                    **_asked(i),
                    "top_ids": list(ranked[f"q{i}"])[:10],
                    "scores": {m: scores[f"q{i}"] for m, scores in sheet.items()},
                }
                for i in range(len(ranks))
            ),
        )
        write_json(path / "metrics.json", {"metrics": {}})
        return path

    def answers(self, name: str, f1: Sequence[float], **config: Any) -> Path:
        """Write evaluated answers with these scores; below 0 there was no answer."""
        path = self.account(name, "eval-e2e", **config)
        write_jsonl(
            path / "predictions.jsonl",
            (
                {
                    **_asked(i),
                    "answer": "" if score < 0 else f"It is {score}. {NASTY}",
                    "failed": score < 0,
                    "abstained": False,
                    "answerable": True,
                    "references": [f"reference {i}"],
                    "passages": [{"id": f"p{i}", "score": 1.0}],
                    "answer_passage_ids": [f"p{i}"],
                    "scores": {} if score < 0 else {"f1": score, "em": float(score == 1)},
                }
                for i, score in enumerate(f1)
            ),
        )
        alone = {"ms_p50": 20.0, "ms_p95": 30.0, "questions_per_s": 50.0, "tokens_per_s": None}
        write_json(path / "metrics.json", {"metrics": {}, "speed": {"answering": alone}})
        return path


def _asked(i: int) -> dict[str, Any]:
    return {
        "id": f"q{i}",
        "question": f"What is number {i}? {NASTY}",
        "document": f"d{i // 2}",
        "positive_ids": [f"p{i}"],
        "slices": ["kind=odd" if i % 2 else "kind=even"],
    }


def _ranking(i: int, rank: int | None) -> dict[str, float]:
    ids = [f"p{j}" for j in range(i + 1, i + DEPTH)]
    if rank is None:
        ids.append(f"p{i + DEPTH}")
    else:
        ids.insert(rank - 1, f"p{i}")
    return {passage: 1.0 - 0.05 * at for at, passage in enumerate(ids)}


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    """What makes run directories."""
    return Runs(tmp_path)


@dataclass
class Page:
    """A report: its source, and what a reader sees of it, in one line."""

    html: str
    path: Path

    @property
    def text(self) -> str:
        """The text without tags, styles and scripts."""
        bare = re.sub(r"<(style|script)\b.*?</\1>", " ", self.html, flags=re.DOTALL)
        return " ".join(unescape(re.sub(r"<[^>]*>", " ", bare)).split())

    @property
    def sections(self) -> list[str]:
        """The ids of the sections."""
        return re.findall(r'<section id="([\w-]+)"', self.html)


@pytest.fixture
def report(stage: Callable[..., Path], tmp_path: Path) -> Callable[..., Page]:
    """Make a report of run directories."""

    def make(*paths: Path, **values: Any) -> Page:
        given: Mapping[str, Any] = {"output": str(tmp_path / "report"), **values}
        path = stage("report", runs=[str(p) for p in paths], **given)
        return Page((path / "report.html").read_text(encoding="utf-8"), path)

    return make
