"""What chooses the best checkpoint: a retrieval metric of dev questions over a corpus, or a sample.

How often it is measured and what follows from it is the Trainer's business.
"""

import random
from collections.abc import Mapping, Sequence

from ragkit.config.blocks import Dense
from ragkit.data.schema import Example, Passage, qrels_of
from ragkit.errors import DataError
from ragkit.evaluation.ranking import deepest, evaluate
from ragkit.evaluation.summary import mean_scores
from ragkit.models.encoder import Encoder
from ragkit.retrieval.searchers import DenseSearcher, query_text
from ragkit.training.retriever import Evaluate


def dev_corpus(
    corpus: Mapping[str, Passage], dev: Sequence[Example], size: int, seed: int
) -> dict[str, Passage]:
    """Return about `size` passages, in the corpus's order: all that dev names, and others by lot.

    What dev names are its positives and its mined negatives; they are never left out, so that the
    metric's questions keep their answers and the passages that are hardest to tell from them.
    """
    named = {i for e in dev for i in (*e.positive_ids, *e.negative_ids)}
    others = [i for i in corpus if i not in named]
    drawn = random.Random(f"{seed}:dev corpus").sample(
        others, min(max(size - len(named), 0), len(others))
    )
    kept = named.union(drawn)
    return {i: p for i, p in corpus.items() if i in kept}


def scorer(
    dev: Sequence[Example], corpus: Mapping[str, Passage], dense: Dense, metric: str
) -> Evaluate:
    """Return the function that measures an encoder on the dev questions over the corpus.

    Raises:
        DataError: an unknown metric, or no dev example has a positive.
    """
    qrels = qrels_of(dev)
    if not qrels:
        raise DataError("no dev example has positive_ids; nothing can be selected by it")
    evaluate(qrels, {}, [metric])  # a wrong name is told before the work
    queries = [query_text(e) for e in dev]

    def score(encoder: Encoder) -> dict[str, float]:
        found = DenseSearcher(corpus, dense, encoder).search(queries, max(100, deepest([metric])))
        ranked = dict(zip((e.id for e in dev), found, strict=True))
        return mean_scores(evaluate(qrels, ranked, [metric]))

    return score
