"""How fast the guards of `ragkit mine-negatives` are, against one candidate at a time.

    python scripts/bench/mining.py            # 20,000 passages, 3,000 questions
    python scripts/bench/mining.py 100000 12000 --ours

Made-up passages with planted near-duplicates and answers; 50 candidates a question. The plain side
cuts each passage into a set of word triples once, compares sets in Python, and looks for answers in
the texts; both sides must drop the same candidates. --ours leaves the plain side out. Prints its
own verdict, and exits with 1 where it is missed.
"""

import argparse
import random
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping

from ragkit.data.nearduplicates import jaccard, shingles, words
from ragkit.data.schema import Example, Passage
from ragkit.retrieval.guards import COMMON, NEAR_DUPLICATE, CorpusWords, rows_that_answer

DEPTH, WORDS, LEAST_RATIO = 50, 120, 2.0

Candidates = list[list[str]]
Dropped = list[tuple[set[str], set[str]]]


def made_up(n_passages: int, n_questions: int) -> tuple[dict[str, Passage], list[Example]]:
    """Return passages of words with natural frequencies, one in ten a copy with changes."""
    rng = random.Random(0)
    vocabulary = [f"w{i}" for i in range(30_000)]
    weights = [1 / (i + 10) for i in range(len(vocabulary))]
    texts: list[list[str]] = []
    for _ in range(n_passages):
        text = rng.choices(vocabulary, weights, k=WORDS)
        if texts and rng.random() < 0.1:
            text = [*rng.choice(texts[-40:])]
            for place in rng.sample(range(WORDS), rng.randrange(8)):
                text[place] = rng.choice(vocabulary)
        texts.append(text)
    corpus = {str(i): Passage(str(i), " ".join(text)) for i, text in enumerate(texts)}
    examples = []
    for i in range(n_questions):
        gold, start = rng.randrange(n_passages), rng.randrange(WORDS - 4)
        answer = " ".join(texts[gold][start : start + 4])
        examples.append(Example(f"q{i}", f"question {i}", (answer,), (str(gold),)))
    return corpus, examples


def candidates_of(corpus: Mapping[str, Passage], examples: list[Example]) -> Candidates:
    """Return for each question neighbours of its positive, and passages from anywhere."""
    rng = random.Random(1)
    found = []
    for example in examples:
        gold = int(example.positive_ids[0])
        near = range(max(gold - 40, 0), min(gold + 40, len(corpus)))
        ids = [*rng.sample(near, 20), *(rng.randrange(len(corpus)) for _ in range(DEPTH - 20))]
        found.append([str(i) for i in dict.fromkeys(ids) if i != gold])
    return found


def ours(corpus: dict[str, Passage], examples: list[Example], asked: Candidates) -> Dropped:
    """Drop by `ragkit.retrieval.guards`."""
    words_of, found = CorpusWords(corpus), []
    for example, ids in zip(examples, asked, strict=True):
        near = words_of.near_duplicates(ids, example.positive_ids)
        rows = rows_that_answer(example, words_of)
        same = {p for p, out in zip(ids, near, strict=True) if out}
        found.append((same, {p for p in ids if words_of.row[p] in rows}))
    return found


def plain(corpus: dict[str, Passage], examples: list[Example], asked: Candidates) -> Dropped:
    """Drop one candidate at a time."""
    texts = {i: f" {' '.join(words(p.text))} " for i, p in corpus.items()}
    sets: dict[str, frozenset[tuple[str, ...]]] = {}
    most, found = max(5, int(COMMON * len(corpus))), []

    def cut(passage_id: str) -> frozenset[tuple[str, ...]]:
        if passage_id not in sets:
            sets[passage_id] = shingles(corpus[passage_id].text)
        return sets[passage_id]

    for example, ids in zip(examples, asked, strict=True):
        (gold,), (answer,) = example.positive_ids, example.answers
        same = {p for p in ids if jaccard(cut(p), cut(gold)) >= NEAR_DUPLICATE}
        has = {p for p in ids if f" {answer} " in texts[p]}
        if has and sum(f" {answer} " in text for text in texts.values()) > most:
            has = set()
        found.append((same, has))
    return found


def timed(part: Callable[[], Dropped]) -> tuple[float, Dropped]:
    """Return the seconds of processor time of a call, and its result."""
    start = time.process_time()
    found = part()
    return time.process_time() - start, found


def main() -> None:
    """Time both sides in turn, and compare what they drop."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("passages", type=int, nargs="?", default=20_000)
    parser.add_argument("questions", type=int, nargs="?", default=3_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--ours", action="store_true", help="leave the plain side out")
    given = parser.parse_args()
    corpus, examples = made_up(given.passages, given.questions)
    asked = candidates_of(corpus, examples)
    start = time.process_time()
    CorpusWords(corpus)
    print(f"{len(corpus):,} passages read in {time.process_time() - start:.1f} s", flush=True)
    ratios = []
    for _ in range(given.rounds):
        seconds, dropped = timed(lambda: ours(corpus, examples, asked))
        line = f"{len(examples) / seconds:,.0f} questions/s, the corpus's words read anew"
        if not given.ours:
            naive, expected = timed(lambda: plain(corpus, examples, asked))
            if dropped != expected:
                sys.exit("the two sides drop different candidates: MISSED")
            ratios.append(naive / seconds)
            line += f"; one at a time {len(examples) / naive:,.0f}; ratio {ratios[-1]:.1f}"
        print(line, flush=True)
    same, has = (sum(len(d[i]) for d in dropped) for i in (0, 1))
    unit = 1 << (20 if sys.platform == "darwin" else 10)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    print(f"{same:,} near-duplicates, {has:,} with the answer; peak memory {peak:,.0f} MB")
    if ratios:
        ratio = statistics.median(ratios)
        met = ratio >= LEAST_RATIO
        print(f"ratio {ratio:.1f} (at least {LEAST_RATIO}): {'met' if met else 'MISSED'}")
        sys.exit(not met)


if __name__ == "__main__":
    main()
