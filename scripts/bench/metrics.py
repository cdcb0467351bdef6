"""How fast the metrics are, against the packages that they equal, and what the bootstrap takes.

    python scripts/bench/metrics.py            # with ranx too where it is installed

10,000 questions each: retrieval metrics of the first 100 passages against pytrec_eval and ranx;
ROUGE, F1 and exact match of answers out of the demo's words against rouge-score and the formulas
of SQuAD's script; 10,000 bootstrap samples of 10 metrics. The sides take turns in one process, and
ranx has been compiled before it is timed. Prints its own verdict, and exits with 1 where values
differ by more than 1e-9 or a target is missed.
"""

import csv
import json
import random
import re
import statistics
import string
import sys
import time
import tracemalloc
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytrec_eval
import torch
from prose import alternate, ratios, verdict
from rouge_score.rouge_scorer import RougeScorer

from ragkit.evaluation import answers
from ragkit.evaluation.ranking import Qrels, Run, evaluate
from ragkit.evaluation.significance import MIN_BOOTSTRAP_CLUSTERS, intervals

try:
    import ranx
except ImportError:
    ranx = None

DEMO = Path(__file__).parents[2] / "data" / "demo"
QUESTIONS, DEPTH, ROUNDS = 10_000, 100, 5
CUTOFFS = (1, 5, 10, 20, 100)
METRICS = [
    *(f"{kind}@{k}" for kind in ("recall", "hit") for k in CUTOFFS),
    "ndcg@10",
    "mrr@10",
    "map",
]
ANSWER_METRICS = ("em", "f1", "rouge_1", "rouge_2", "rouge_l")
RANX = {metric: metric.replace("hit@", "hit_rate@") for metric in METRICS}
TREC = {"recall": "recall", "hit": "success", "ndcg": "ndcg_cut"}
MOST_SECONDS, MOST_MEGABYTES, MOST_DIFFERENCE = 2.0, 300, 1e-9

Scores = dict[str, list[float]]


def rankings(distinct: bool) -> tuple[Qrels, Run]:
    """Return graded judgements and a run; its scores have two decimals, or are all different."""
    rng = np.random.default_rng(0)
    qrels: Qrels = {}
    run: Run = {}
    for q in range(QUESTIONS):
        ids = [f"passage-{i}" for i in rng.choice(100_000, DEPTH + 5, replace=False)]
        scores = rng.permutation(DEPTH) / DEPTH if distinct else rng.random(DEPTH).round(2)
        run[f"q{q}"] = dict(zip(ids[:DEPTH], scores.tolist(), strict=True))
        found = rng.choice(DEPTH + 5, rng.integers(1, 6), replace=False).tolist()
        qrels[f"q{q}"] = {ids[i]: int(rng.integers(1, 4)) for i in found}
    return qrels, run


def by_pytrec_eval(qrels: Qrels, run: Run) -> Scores:
    """Score by trec_eval's code; a first rank beyond 10 counts 0 in mrr@10."""
    names = {}
    for metric in METRICS:
        kind, _, k = metric.partition("@")
        names[metric] = f"{TREC[kind]}.{k}" if kind in TREC else "recip_rank"
    names["map"] = "map"
    found = pytrec_eval.RelevanceEvaluator(qrels, set(names.values())).evaluate(run)
    scores = {
        metric: [found[q][name.replace(".", "_")] for q in qrels] for metric, name in names.items()
    }
    scores["mrr@10"] = [score if score >= 1 / 10 else 0.0 for score in scores["mrr@10"]]
    return scores


def by_ranx(qrels: Qrels, run: Run) -> Scores:
    """Score by ranx, from the same dictionaries."""
    scored = ranx.Run(run)
    ranx_scores(ranx.Qrels(qrels), scored)
    return {m: [scored.scores[name][q] for q in qrels] for m, name in RANX.items()}


def ranx_scores(qrels: object, run: object) -> None:
    """Score ranx's own objects; the scores are left in the run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numba, as it compiles
        ranx.evaluate(qrels, run, list(RANX.values()))


def by_ragkit(qrels: Qrels, run: Run) -> Scores:
    """Score by `ranking`."""
    return {m: list(scores.values()) for m, scores in evaluate(qrels, run, METRICS).items()}


def retrieval() -> bool:
    """Compare the retrieval metrics: all values, and the time from dictionaries to values."""
    tied, distinct = rankings(distinct=False), rankings(distinct=True)
    met = equal("pytrec_eval, with ties", by_ragkit(*tied), by_pytrec_eval(*tied))
    sides: dict[str, Callable[[int], object]] = {
        "ragkit": lambda i: by_ragkit(*distinct),
        "pytrec_eval": lambda i: by_pytrec_eval(*distinct),
    }
    if ranx is None:
        print("ranx is not installed, and left out")
    else:
        met &= equal("ranx, without ties", by_ragkit(*distinct), by_ranx(*distinct))
        built = ranx.Qrels(distinct[0]), ranx.Run(distinct[1])
        sides["ranx"] = lambda i: by_ranx(*distinct)
        sides["ranx without building its objects"] = lambda i: ranx_scores(*built)
    what = f"{len(METRICS)} retrieval metrics of {QUESTIONS:,} x {DEPTH}"
    return timed(what, sides) and met


def generated() -> list[tuple[str, list[str]]]:
    """Return predictions of 5 to 60 words with one or two references each that they resemble."""
    rng = random.Random(0)
    with (DEMO / "passages.csv").open(encoding="utf-8", newline="") as f:
        texts = [row["text"] for row in csv.DictReader(f)]
    with (DEMO / "test.jsonl").open(encoding="utf-8") as f:
        texts += [answer for line in f for answer in json.loads(line).get("answers", [])]
    words = [word for word in " ".join(texts).split() if word.isascii()]

    def changed(text: list[str]) -> str:
        share = rng.random() / 2
        return " ".join(rng.choice(words) if rng.random() < share else w for w in text)

    found = []
    for _ in range(QUESTIONS):
        size = rng.randint(5, 60)
        start = rng.randrange(len(words) - size)
        text = words[start : start + size]
        references = [changed(text) for _ in range(rng.randint(1, 2))]
        found.append((" ".join(text) if rng.random() < 0.1 else changed(text), references))
    return found


def squad_words(text: str) -> list[str]:
    """Normalise as SQuAD v1.1's script: case, punctuation, articles, white space."""
    punctuation = set(string.punctuation)
    text = "".join(c for c in text.lower() if c not in punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def squad_em(prediction: str, reference: str) -> float:
    """Return whether the normalised texts are the same."""
    return float(squad_words(prediction) == squad_words(reference))


def squad_f1(prediction: str, reference: str) -> float:
    """Return the harmonic mean of precision and recall of the normalised words."""
    ours, theirs = squad_words(prediction), squad_words(reference)
    shared = sum((Counter(ours) & Counter(theirs)).values())
    if shared == 0:
        return 0.0
    precision, recall = shared / len(ours), shared / len(theirs)
    return 2 * precision * recall / (precision + recall)


def by_packages(pairs: list[tuple[str, list[str]]]) -> Scores:
    """Score by rouge-score and SQuAD's formulas."""
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    rouge = [scorer.score_multi(references, prediction) for prediction, references in pairs]
    return {
        "em": [
            max(squad_em(prediction, r) for r in references) for prediction, references in pairs
        ],
        "f1": [
            max(squad_f1(prediction, r) for r in references) for prediction, references in pairs
        ],
        "rouge_1": [scores["rouge1"].fmeasure for scores in rouge],
        "rouge_2": [scores["rouge2"].fmeasure for scores in rouge],
        "rouge_l": [scores["rougeL"].fmeasure for scores in rouge],
    }


def by_answers(pairs: list[tuple[str, list[str]]]) -> Scores:
    """Score by `answers`, as in a new process: no word is stemmed yet."""
    answers._stem.cache_clear()
    answers.normalize_answer.cache_clear()
    found = [
        answers.score_answer(prediction, references, answerable=True, abstained=False)
        for prediction, references in pairs
    ]
    return {name: [scores[name] for scores in found] for name in ANSWER_METRICS}


def generation() -> bool:
    """Compare the scores of answers."""
    pairs = generated()
    met = equal("rouge-score and SQuAD's formulas", by_answers(pairs), by_packages(pairs))
    sides: dict[str, Callable[[int], object]] = {
        "ragkit": lambda i: by_answers(pairs),
        "rouge-score + SQuAD": lambda i: by_packages(pairs),
    }
    return timed(f"ROUGE, F1 and exact match of {QUESTIONS:,} answers", sides, rounds=3) and met


def bootstrap(n_documents: int) -> bool:
    """Time 10,000 bootstrap samples of 10 metrics over so many documents, and take their memory."""
    rng = np.random.default_rng(0)
    values = rng.random((10, QUESTIONS))
    documents = [str(i) for i in range(n_documents)]
    documents += [str(i) for i in rng.integers(n_documents, size=QUESTIONS - n_documents)]
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        intervals(values, documents, within=(0.0, 1.0), samples=10_000)
        seconds.append(time.perf_counter() - start)
    tracemalloc.start()
    intervals(values, documents, within=(0.0, 1.0), samples=10_000)
    megabytes = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    median = statistics.median(seconds)
    met = median < MOST_SECONDS and megabytes < MOST_MEGABYTES
    print(
        f"{'PASS' if met else 'FAIL'}: 10,000 bootstrap samples of 10 metrics, {QUESTIONS:,} "
        f"questions of {n_documents:,} documents: {median:.2f} s ({min(seconds):.2f} to "
        f"{max(seconds):.2f}; under {MOST_SECONDS:g}), {megabytes:.0f} MB (under {MOST_MEGABYTES})",
        flush=True,
    )
    return met


def equal(what: str, ours: Scores, theirs: Scores) -> bool:
    """Print whether all values are equal, and return it."""
    worst = max(float(np.abs(np.subtract(ours[m], theirs[m])).max()) for m in ours)
    met = ours.keys() == theirs.keys() and worst <= MOST_DIFFERENCE
    print(f"{'PASS' if met else 'FAIL'}: equal to {what}: largest difference {worst:.0e}")
    return met


def timed(what: str, sides: Mapping[str, Callable[[int], object]], rounds: int = ROUNDS) -> bool:
    """Time the sides, print medians, and return whether ragkit is no slower than any other."""
    seconds = alternate(sides, rounds, torch.device("cpu"))
    medians = (f"{name} {statistics.median(s):.2f} s" for name, s in seconds.items())
    print(f"{what}: {', '.join(medians)}")
    met = True
    for name in list(sides)[1:]:
        ratio, said = ratios(seconds, name, "ragkit")
        print(f"{name} / ragkit: {said}")
        met &= verdict(f"no slower than {name}", ratio, 1.0)
    return met


def main() -> None:
    """Compare and time all of it."""
    met = [retrieval(), generation()]
    met += [bootstrap(n_documents) for n_documents in (MIN_BOOTSTRAP_CLUSTERS, QUESTIONS)]
    sys.exit(not all(met))


if __name__ == "__main__":
    main()
