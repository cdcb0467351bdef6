"""Which documents are for training, which for selection and which for the test.

By document, so that no test question's document was trained on; from a hash of the seed and the
document's name, so that it is the same in every process and does not change when documents are
added. Documents that are largely copies of each other can be kept together.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, pairwise

from ragkit.data.files import sha256_text

_COPIED = 0.2  # share of the smaller document's passages that the other has too
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
    found = {}
    for document in documents:
        name = (together or {}).get(document, document)
        place = int(sha256_text(str(seed), name)[:15], 16) / 16**15
        found[document] = "test" if place < test else "dev" if place < test + dev else "train"
    return found


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
