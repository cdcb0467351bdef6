"""Train and measure every objective on every data set and seed, and print tables of the results.

    python scripts/results/matrix.py DATA runs/matrix                      # what a CPU can do
    python scripts/results/matrix.py DATA runs/matrix --seeds 5 --sets faire covidqa scifact squad

DATA holds a folder of each set, as its README describes them. What is done is not done again, so a
run that was broken off goes on. A question's score is its mean over the seeds; differences are
paired by question, with intervals clustered by source document.
"""

import argparse
import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from prepare import prepare, without_leaks

from ragkit.data.files import read_examples, read_jsonl, write_examples, write_passages
from ragkit.data.schema import Example, Passage
from ragkit.evaluation.compare import compare
from ragkit.qa.splits import split_documents
from ragkit.stages.markdown import difference

METRICS = ["recall@1", "recall@5", "recall@10", "ndcg@10", "mrr@10"]
SQUAD_TRAIN, SQUAD_TEST = 1_500, 1_000
RANDOM_NEGATIVES = 16  # a question, as many as mine-negatives leaves
LOOP = {"epochs": 2, "batch_size": 32, "learning_rate": 3e-5}
DEV_CORPUS = 600
FAST = {"precision": "auto"}
# what differs between the systems; all start from one encoder and take the same steps
ARMS: dict[str, dict[str, Any]] = {
    "MNRL, random negatives": {"examples": "train-random.jsonl"},
    "ragkit": {},
    "CTL (LocalRQA)": {
        "loss": {"temperature": 1.0, "hard_neg_ratio": 0.05},
        "encoder": {"normalize": False},
    },
    "symmetric (DALM)": {
        "loss": {"temperature": 0.01, "n_negatives": 0, "symmetric": "dalm"},
        "encoder": {"query_prefix": "#query# ", "passage_prefix": "#passage# "},
    },
}
RULES = "ragkit, rule-made questions"
QUESTIONS_BY_RULES = ("faire", "covidqa")


def main() -> None:
    """Prepare, run and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--seeds", type=int, default=None, help="unset: 3 of faire and covidqa, 1")
    given = parser.parse_args()
    for name in given.sets:
        folder = given.output / name
        if not (folder / "data" / "test.jsonl").exists():
            SETS[name](given.data / name, folder / "data")
        draw_negatives(folder / "data")
        run(folder / "shared", shared(folder / "data", name))
        seeds = given.seeds or (3 if name in QUESTIONS_BY_RULES else 1)
        for seed in range(seeds):
            run(folder / f"seed-{seed}", trainings(folder, name, seed))
        print(table(folder, name, seeds), flush=True)


def run(output: Path, steps: list[dict[str, Any]]) -> None:
    """Run a pipeline."""
    path = output.with_suffix(".yaml")
    path.write_text(yaml.safe_dump({"steps": steps}, sort_keys=False))
    subprocess.run([sys.executable, "-m", "ragkit", "run", path, "-o", output], check=True)


def shared(data: Path, name: str) -> list[dict[str, Any]]:
    """Return what no training changes: negatives, questions by rules, untrained systems."""
    corpus, train = str(data / "corpus.jsonl"), str(data / "train.jsonl")
    test = {"examples": str(data / "test.jsonl"), "train": [train], "dev": str(data / "dev.jsonl")}
    dense = {"type": "dense", "index": "@negatives/index"}
    found = [
        step("negatives", "mine-negatives", examples=train, corpus=corpus),
        step("bm25", "eval-retriever", **test, retriever={"type": "bm25"}),
        step("base", "eval-retriever", **test, retriever=dense),
        fused("base+bm25", test, dense),
    ]
    if name in QUESTIONS_BY_RULES:
        rules = {"splits": {"dev": 0.1, "test": 0}, "held_out": [test["examples"]]}
        found += [
            step("qa", "qa-gen", input=corpus, **rules),
            step("qa-negatives", "mine-negatives", examples="@qa/train.jsonl"),
        ]
    return found


def trainings(folder: Path, name: str, seed: int) -> list[dict[str, Any]]:
    """Return a training for each arm, and the evaluations of what it trained."""
    data, mined = folder / "data", folder / "shared"
    test = {"examples": str(data / "test.jsonl"), "seed": seed}
    given = {**test, "train": [str(data / "train.jsonl")], "dev": str(data / "dev.jsonl")}
    corpus = str(data / "corpus.jsonl")
    found: list[dict[str, Any]] = []
    for n, arm in enumerate(ARMS.values()):
        examples = data / arm["examples"] if "examples" in arm else mined / "negatives/train.jsonl"
        config = {**arm, "examples": str(examples), "seed": seed}
        found += trained(f"arm-{n}", config, corpus, given)
    if name in QUESTIONS_BY_RULES:
        made = {
            **test,
            "train": [str(mined / "qa/train.jsonl")],
            "dev": str(mined / "qa/dev.jsonl"),
        }
        config = {"examples": str(mined / "qa-negatives/train.jsonl"), "seed": seed}
        found += trained("rules", {**config, "loop": {"epochs": 1}}, corpus, made)
    return found


def draw_negatives(data: Path) -> None:
    """Write train-random.jsonl: for each training question passages that do not answer it."""
    ids = [r["id"] for r in read_jsonl(data / "corpus.jsonl")]
    draw = random.Random(0)
    examples = []
    for example in read_examples(data / "train.jsonl"):
        others = [i for i in draw.sample(ids, RANDOM_NEGATIVES + len(example.positive_ids))
                  if i not in example.positive_ids]  # fmt: skip
        examples.append(replace(example, negative_ids=tuple(others[:RANDOM_NEGATIVES])))
    write_examples(data / "train-random.jsonl", examples)


def step(name: str, command: str, **config: Any) -> dict[str, Any]:
    """Return a step of a pipeline."""
    return {"id": name, "run": command, "with": config}


def fused(name: str, test: Mapping[str, Any], dense: Mapping[str, Any]) -> dict[str, Any]:
    """Return the evaluation of an encoder with BM25, its weight chosen on dev."""
    retriever = {"type": "fused", "method": "weighted", "weight": "auto", "dense": dict(dense)}
    return step(name, "eval-retriever", **test, retriever=retriever)


def trained(
    name: str, config: Mapping[str, Any], corpus: str, test: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the steps that train an arm and evaluate it, alone and with BM25."""
    loop = {**LOOP, **config.get("loop", {})}
    config = {"dev_corpus": DEV_CORPUS, **config, "loop": loop}
    dense = {"type": "dense", "model": f"@{name}-train", "index": f"@{name}-index"}
    return [
        step(f"{name}-train", "train-retriever", **config),
        step(f"{name}-index", "index", corpus=corpus, model=f"@{name}-train", encoder=FAST),
        step(name, "eval-retriever", **test, retriever=dense),
        fused(f"{name}+bm25", test, dense),
    ]


def table(folder: Path, name: str, seeds: int) -> str:
    """Return the results of a set as Markdown."""
    labels = {"bm25": "BM25", "base": "base", "base+bm25": "base + BM25"}
    for n, arm in enumerate(ARMS):
        labels |= {f"arm-{n}": arm, f"arm-{n}+bm25": f"{arm} + BM25"}
    labels |= {"rules": RULES, "rules+bm25": f"{RULES} + BM25"}
    records = {
        key: [read_jsonl(path / "per_query.jsonl") for path in places(folder, key, seeds)]
        for key in labels
    }
    records = {key: found for key, found in records.items() if found}
    clusters = {str(r["id"]): str(r["document"]) for r in records["bm25"][0]}
    sheets = {labels[key]: averaged(of) for key, of in records.items()}
    lines = [f"### {name}: {len(clusters)} questions from {len(set(clusters.values()))} documents"]
    seeded = f"{seeds} seed{'s' if seeds > 1 else ''}"
    lines += ["", f"nDCG@10, mean of {seeded}; gains are paired, with 95% intervals.", ""]
    gains = {b: compare(sheets, clusters, METRICS, b) for b in ("base", "BM25")}
    systems = gains["base"]["systems"]
    lines += ["| | recall@1 | recall@10 | nDCG@10 | over base | over BM25 |", "|---" * 6 + "|"]
    for label in sheets:
        cells = [f"{systems[label][m]['mean']:.3f}" for m in ("recall@1", "recall@10", "ndcg@10")]
        cells += [gain(gains[b]["differences"].get(label)) for b in ("base", "BM25")]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    ours = compare({k: sheets[k] for k in ARMS}, clusters, METRICS, "ragkit")["differences"]
    others = "; ".join(f"{label} {gain(found)}" for label, found in ours.items())
    return "\n".join([*lines, "", f"Over ragkit's own: {others}.", ""])


def places(folder: Path, key: str, seeds: int) -> list[Path]:
    """Return the runs of a step: a run of each seed, one for all, or none."""
    runs = [folder / "shared", *(folder / f"seed-{seed}" for seed in range(seeds))]
    return [run / key for run in runs if (run / key / "per_query.jsonl").exists()]


def averaged(runs: Iterable[list[dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """Return the score sheet of a system, each score the mean over its runs."""
    found = [{str(r["id"]): r["scores"] for r in records} for records in runs]
    return {
        metric: {q: sum(scores[q][metric] for scores in found) / len(found) for q in found[0]}
        for metric in METRICS
    }


def gain(found: Mapping[str, Any] | None) -> str:
    """Return a system's difference in nDCG@10 as a text; nothing for the baseline's own row."""
    return difference(found and found["ndcg@10"])


def prepare_scifact(source: Path, target: Path) -> None:
    """Split the training claims by the abstract that they cite first: 60 : 10 : 30."""
    corpus = passages(source / "corpus.jsonl")
    claims = [
        Example(
            id=str(r["id"]),
            question=r["claim"],
            positive_ids=tuple(i for i in map(str, r["cited_doc_ids"]) if i in corpus),
        )
        for r in read_jsonl(source / "claims_train.jsonl")
    ]
    claims = [claim for claim in claims if claim.positive_ids]
    split = split_documents({c.positive_ids[0] for c in claims}, dev=0.1, test=0.3)
    write(target, corpus, {
        name: [c for c in claims if split[c.positive_ids[0]] == name]
        for name in ("train", "dev", "test")
    })  # fmt: skip


def prepare_squad(source: Path, target: Path) -> None:
    """Draw training and dev questions from the train extract, test questions from the dev set."""
    corpus = passages(source / "corpus_train.jsonl") | passages(source / "corpus_dev.jsonl")
    draw = random.Random(0)

    def drawn(name: str, count: int) -> list[Example]:
        records = read_jsonl(source / f"qa_{name}.jsonl")
        return [
            Example(str(r["id"]), r["question"], tuple(r["answers"]), (str(r["passage_id"]),))
            for r in draw.sample(records, count)
        ]

    train = drawn("train", SQUAD_TRAIN)
    split = split_documents({corpus[e.positive_ids[0]].source for e in train}, dev=0.1, test=0.0)
    of = {e.id: split[corpus[e.positive_ids[0]].source] for e in train}
    write(target, corpus, {
        "train": [e for e in train if of[e.id] == "train"],
        "dev": [e for e in train if of[e.id] == "dev"],
        "test": drawn("dev", SQUAD_TEST),
    })  # fmt: skip


def passages(path: Path) -> dict[str, Passage]:
    """Read a corpus of theirs."""
    return {
        str(r["id"]): Passage(
            id=str(r["id"]),
            text=r["text"],
            title=r.get("title", ""),
            doc_id=str(r.get("doc_id", "")).replace(" ", "_"),
        )
        for r in read_jsonl(path)
    }


def write(target: Path, corpus: Mapping[str, Passage], splits: dict[str, list[Example]]) -> None:
    """Write corpus.jsonl and the splits without leaks, and print their sizes."""
    target.mkdir(parents=True, exist_ok=True)
    write_passages(target / "corpus.jsonl", corpus.values())
    splits = {**splits, "train": without_leaks(splits["train"], splits["test"])}
    for name, examples in splits.items():
        write_examples(target / f"{name}.jsonl", examples)
    sizes = {name: len(examples) for name, examples in splits.items()}
    print(json.dumps({"passages": len(corpus), **sizes}))


SETS: dict[str, Callable[[Path, Path], None]] = {
    "faire": prepare,
    "covidqa": prepare,
    "scifact": prepare_scifact,
    "squad": prepare_squad,
}

if __name__ == "__main__":
    main()
