"""Mining hard negatives: passages that rank high for a question and do not answer it.

Candidates are the top of a first stage over the whole corpus. Positives go, and near-duplicates of
positives, and, by the positive-aware rule of NV-Retriever (de Souza et al., 2024), candidates whose
cosine with the question is above a share of the lowest positive's: they may well be answers that
nobody labelled. Which system is the first stage, and how many are kept, the caller says.
"""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ragkit.data.nearduplicates import jaccard, shingles
from ragkit.data.schema import Example, Passage, known_positives

NEAR_DUPLICATE = 0.7  # share of common word triples from which two passages are taken for the same

Cosine = Callable[[int, Sequence[str]], NDArray[np.float32]]


@dataclass(frozen=True)
class Mined:
    """Examples with negatives, and the account of what was dropped.

    dropped: number of candidates by reason
    too_few: ids of examples that got fewer negatives than asked
    """

    examples: list[Example]
    dropped: dict[str, int]
    too_few: list[str]


def mine(
    examples: Sequence[Example],
    corpus: Mapping[str, Passage],
    rankings: Sequence[Mapping[str, float]],
    cosine: Cosine | None,
    *,
    n: int,
    max_share: float = 0.95,
    pick: str = "rank",
    seed: int = 0,
) -> Mined:
    """Give each example up to `n` negatives out of its ranking; examples are never dropped.

    rankings: first-stage results, {passage id: score} in order, one an example
    cosine: similarities of example i with the passages named, under one encoder; None: no
        positive-aware rule
    max_share: of the lowest positive's cosine, above which a candidate is dropped
    pick: "rank" takes the highest, "sample" draws from all that are left
    """
    answers = known_positives(examples)
    cache: dict[str, frozenset[tuple[str, ...]]] = {}
    dropped: Counter[str] = Counter()
    too_few: list[str] = []
    mined: list[Example] = []

    def cut(passage_id: str) -> frozenset[tuple[str, ...]]:
        if passage_id not in cache:
            cache[passage_id] = shingles(corpus[passage_id].text)
        return cache[passage_id]

    for i, (example, ranking) in enumerate(zip(examples, rankings, strict=True)):
        if not example.positive_ids:
            mined.append(example)
            continue
        positives = answers[example.asked]
        candidates = [p for p in ranking if p not in positives]
        dropped["a positive of this question"] += len(ranking) - len(candidates)
        same = {p for p in candidates if any(
            jaccard(cut(p), cut(q)) >= NEAR_DUPLICATE for q in positives)}  # fmt: skip
        candidates = [p for p in candidates if p not in same]
        dropped["a near-duplicate of a positive"] += len(same)
        if cosine is not None and candidates:
            limit = max_share * float(cosine(i, list(example.positive_ids)).min())
            near = cosine(i, candidates) > limit
            dropped["too near to the question"] += int(near.sum())
            candidates = [p for p, out in zip(candidates, near, strict=True) if not out]
        if pick == "sample":
            rng = random.Random(f"{seed}:{example.id}")
            candidates = rng.sample(candidates, min(n, len(candidates)))
        if len(candidates) < n:
            too_few.append(example.id)
        mined.append(replace(example, negative_ids=tuple(candidates[:n])))
    return Mined(mined, dict(dropped), too_few)
