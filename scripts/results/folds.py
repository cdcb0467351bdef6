"""Cross-validate a tuned encoder over all documents of a set, and print a table of the results.

    python scripts/results/folds.py runs/matrix/covidqa/data runs/folds

A test set of few documents shows large gains alone. Here every document is tested once, by an
encoder that was trained on the questions of others: the folds share out documents, and the
questions of all folds are compared at once, paired, with intervals clustered by document. DATA is
a folder that matrix.py has prepared; its splits are put together. What is done is not done again.

Encoders that matrix.py trained on rule-made questions of the set, which are nobody's, are tested on
all questions too.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matrix import FAST, averaged, fused, run, step, trained
from prepare import without_leaks

from ragkit.data.files import read_corpus, read_examples, read_jsonl, sha256_text, write_examples
from ragkit.data.schema import Example, Passage
from ragkit.evaluation.compare import compare
from ragkit.qa.splits import split_documents
from ragkit.stages.markdown import difference

METRIC = "ndcg@10"
LABELS = {
    "bm25": "BM25", "base": "base", "base+bm25": "base + BM25", "tuned": "ragkit",
    "tuned+bm25": "ragkit + BM25",
}  # fmt: skip


def main() -> None:
    """Mine negatives once, then train and evaluate each fold."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--folds", type=int, default=5)
    given = parser.parse_args()
    corpus_path = given.data / "corpus.jsonl"
    corpus = read_corpus(corpus_path)
    every = given.output / "all.jsonl"
    if not every.exists():
        splits = [read_examples(given.data / f"{name}.jsonl") for name in ("train", "dev", "test")]
        write_examples(every, [e for split in splits for e in split if e.positive_ids])
    mining = step("negatives", "mine-negatives", examples=str(every), corpus=str(corpus_path))
    run(given.output / "mined", [mining])
    mined = read_examples(given.output / "mined" / "negatives" / "train.jsonl")
    for fold in range(given.folds):
        folder = given.output / f"fold-{fold}"
        write_fold(folder, mined, corpus, fold, given.folds)
        run(folder / "runs", steps(folder, corpus_path, given.output / "mined"))
    print(table(given.output, given.folds))
    trained_on_rules = sorted(given.data.parent.glob("seed-*/rules-train"))
    if trained_on_rules:
        made = given.data.parent / "shared" / "qa"
        print(rules(given.output, corpus_path, made, trained_on_rules))


def write_fold(
    folder: Path, examples: list[Example], corpus: Mapping[str, Passage], fold: int, folds: int
) -> None:
    """Write train.jsonl, dev.jsonl and test.jsonl; a document is tested in one fold."""
    source = {e.id: corpus[e.positive_ids[0]].source for e in examples}
    documents = sorted(set(source.values()), key=sha256_text)
    tested = set(documents[fold::folds])
    test = [e for e in examples if source[e.id] in tested]
    rest = without_leaks([e for e in examples if source[e.id] not in tested], test)
    split = split_documents({source[e.id] for e in rest}, dev=0.1, test=0.0)
    write_examples(folder / "test.jsonl", test)
    for name in ("train", "dev"):
        write_examples(folder / f"{name}.jsonl", [e for e in rest if split[source[e.id]] == name])


def steps(folder: Path, corpus: Path, mined: Path) -> list[dict[str, Any]]:
    """Return the evaluations of a fold, and the training between them."""
    test = {
        "examples": str(folder / "test.jsonl"),
        "corpus": str(corpus),
        "train": [str(folder / "train.jsonl")],
        "dev": str(folder / "dev.jsonl"),
    }
    dense = {"type": "dense", "index": str(mined / "negatives" / "index")}
    config = {"examples": test["train"][0], "corpus": str(corpus), "dev": test["dev"]}
    return [
        step("bm25", "eval-retriever", **test, retriever={"type": "bm25"}),
        step("base", "eval-retriever", **test, retriever=dense),
        fused("base+bm25", test, dense),
        *trained("tuned", config, str(corpus), test),
    ]


def rules(output: Path, corpus: Path, made: Path, models: list[Path]) -> str:
    """Test encoders trained on rule-made questions on all questions, and return a table.

    made: run directory of qa-gen; models: a training of each seed
    """
    questions = [e for name in ("train", "dev") for e in read_examples(made / f"{name}.jsonl")]
    asked = output / "rules.jsonl"
    write_examples(asked, without_leaks(read_examples(output / "all.jsonl"), questions))
    test = {
        "examples": str(asked),
        "corpus": str(corpus),
        "train": [str(made / "train.jsonl")],
        "dev": str(made / "dev.jsonl"),
    }
    untrained = {"type": "dense", "index": str(output / "mined" / "negatives" / "index")}
    found = [
        step("bm25", "eval-retriever", **test, retriever={"type": "bm25"}),
        fused("base+bm25", test, untrained),
    ]
    for seed, model in enumerate(models):
        dense = {"type": "dense", "model": str(model), "index": f"@index-{seed}"}
        found += [
            step(f"index-{seed}", "index", corpus=str(corpus), model=str(model), encoder=FAST),
            step(f"rules-{seed}", "eval-retriever", **test, retriever=dense),
            fused(f"rules+bm25-{seed}", test, dense),
        ]
    folder = output / "rules"
    run(folder, found)
    seeds = range(len(models))
    runs = {"BM25": ["bm25"], "base + BM25": ["base+bm25"],
            "ragkit, rule-made questions": [f"rules-{n}" for n in seeds],
            "ragkit, rule-made questions + BM25": [f"rules+bm25-{n}" for n in seeds]}  # fmt: skip
    records = {
        label: [read_jsonl(folder / name / "per_query.jsonl") for name in names]
        for label, names in runs.items()
    }
    clusters = {str(r["id"]): str(r["document"]) for r in records["BM25"][0]}
    sheets = {label: {METRIC: averaged(of)[METRIC]} for label, of in records.items()}
    return laid_out(sheets, clusters, ["BM25", "base + BM25"])


def table(output: Path, folds: int) -> str:
    """Return the results over all folds as Markdown."""
    records = {
        key: [
            record
            for fold in range(folds)
            for record in read_jsonl(output / f"fold-{fold}" / "runs" / key / "per_query.jsonl")
        ]
        for key in LABELS
    }
    clusters = {r["id"]: r["document"] for r in records["bm25"]}
    sheets = {
        LABELS[key]: {METRIC: {r["id"]: r["scores"][METRIC] for r in found}}
        for key, found in records.items()
    }
    return laid_out(sheets, clusters, ["base", "BM25", "base + BM25"])


def laid_out(sheets: Mapping[str, Any], clusters: Mapping[str, str], baselines: list[str]) -> str:
    """Return a Markdown table of systems, with paired gains over each baseline."""
    gains = [compare(sheets, clusters, [METRIC], b) for b in baselines]
    lines = [f"{len(clusters)} questions from {len(set(clusters.values()))} documents", ""]
    lines += [f"| | nDCG@10 | {' | '.join(f'over {b}' for b in baselines)} |"]
    lines += ["|---" * (2 + len(baselines)) + "|"]
    for label in sheets:
        mean = gains[0]["systems"][label][METRIC]["mean"]
        cells = [difference(g["differences"].get(label, {}).get(METRIC)) for g in gains]
        lines.append(f"| {label} | {mean:.3f} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
