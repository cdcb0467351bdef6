"""Which documents are for training, which for selection and which for the test.

By document, so that no test question's document was trained on; from a hash of the seed and the
document's name, so that it is the same in every process and does not change when documents are
added.
"""

from collections.abc import Iterable

from ragkit.data.files import sha256_text


def split_documents(
    documents: Iterable[str], dev: float, test: float, seed: int = 0
) -> dict[str, str]:
    """Return "train", "dev" or "test" for each document.

    dev, test: their shares of the documents, 0 to 1 together at most 1
    """
    found = {}
    for document in documents:
        place = int(sha256_text(str(seed), document)[:15], 16) / 16**15
        found[document] = "test" if place < test else "dev" if place < test + dev else "train"
    return found
