"""Which documents are for training, which for selection and which for the test.

By document, so that no test question's document was trained on; from a hash of the seed and the
document's name, so that it is the same in every process and does not change when documents are
added. Where so few documents leave a split empty, they are shared out in the order of their hashes.
Documents that are largely copies of each other can be kept together.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, pairwise

from ragkit.data.files import sha256_text

_COPIED = 0.2  # share of the smaller document's passages that the other has too
_ROUNDED = 1e-9  # what is left of 1 - 0.9 - 0.1
_BOILERPLATE = 50  # documents that have a passage, from which only neighbours are counted


def split_documents(
    documents: Iterable[str],
    dev: float,
    test: float,
    seed: int = 0,
    together: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return "train", "dev" or "test" for each document.

    dev, test: their shares of the documents, 0 to 1 together at most 1
    together: the document whose split a document shares, as `document_groups` returns it
    """
    heads = {name: (together or {}).get(name, name) for name in documents}
    places = {n: int(sha256_text(str(seed), n)[:15], 16) / 16**15 for n in heads.values()}
    wanted = {"test": test, "dev": dev, "train": 1 - dev - test}
    found = {
        name: "test" if place < test else "dev" if place < test + dev else "train"
        for name, place in places.items()
    }
    if {split for split, share in wanted.items() if share > _ROUNDED} - set(found.values()):
        found = _shared_out(sorted(places, key=places.__getitem__), wanted)
    return {name: found[head] for name, head in heads.items()}


def _shared_out(names: Sequence[str], wanted: Mapping[str, float]) -> dict[str, str]:
    """Give test, dev and training their shares, and each a name where there are enough."""
    count = {
        split: max(round(share * len(names)), 1) if share > _ROUNDED else 0
        for split, share in wanted.items()
    }
    for split, least in (("train", 1), ("dev", 0), ("test", 0)):  # who gives way
        count[split] -= min(max(sum(count.values()) - len(names), 0), max(count[split] - least, 0))
    count["train"] += len(names) - sum(count.values())
    order = [split for split in ("test", "dev", "train") for _ in range(count[split])]
    return dict(zip(names, order, strict=True))


def document_groups(
    passages: Mapping[str, int], near_duplicates: Iterable[Sequence[str]]
) -> dict[str, str]:
    """Return for each document that is a copy of others the first name of them.

    passages: how many each document has
    near_duplicates: the documents of the passages of each group of near-duplicates
    """
    shared: Counter[tuple[str, str]] = Counter()
    for group in near_duplicates:
        names = sorted(set(group))
        shared.update(pairwise(names) if len(names) > _BOILERPLATE else combinations(names, 2))
    first: dict[str, str] = {}

    def root(name: str) -> str:
        while (above := first.get(name, name)) != name:
            name = above
        return name

    for (a, b), count in shared.items():
        if count >= _COPIED * min(passages[a], passages[b]):
            low, high = sorted((root(a), root(b)))
            first[high] = low
    return {name: root(name) for name in first}
