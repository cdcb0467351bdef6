"""What is asked about which passages, decided before anything is generated.

Everything follows from the seed, the passages and the settings: the plan is made anew, the same,
each time that it is read, and is never held in memory.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import ceil

from ragkit.data.files import sha256_text
from ragkit.data.nearduplicates import words
from ragkit.data.schema import Passage
from ragkit.qa.prompts import MULTI_PASSAGE, UNANSWERABLE, Request

_WINDOW = 5  # passages before one that may be its partner in a question over two
_PARTNERS_SHARE = 0.05  # of the words of the shorter, at least


@dataclass(frozen=True)
class Plan:
    """Who is asked what.

    passages: gives the corpus, in order, each time that it is called
    styles: asked about every passage
    n: pairs a request
    unanswerable: share of the questions that shall have no answer, 0 to 1
    limit: number of passages asked about, from the first on
    left_out: ids that are not asked about: near-duplicates of earlier passages
    """

    passages: Callable[[], Iterable[Passage]]
    styles: Sequence[str]
    n: int = 1
    unanswerable: float = 0.0
    limit: int | None = None
    left_out: Collection[str] = field(default_factory=frozenset)
    seed: int = 0

    def requests(self) -> Iterator[Request]:
        """Yield what is asked, passage by passage."""
        earlier: deque[Passage] = deque(maxlen=_WINDOW)
        for passage in self.asked():
            if earlier and earlier[-1].source != passage.source:
                earlier.clear()
            for style in self.styles:
                if style != MULTI_PASSAGE:
                    yield Request((passage,), style)
                elif partner := _partner(passage, earlier):
                    yield Request((partner, passage), style)
            if n := self._unanswerable(passage):
                yield Request((passage,), UNANSWERABLE, n)
            earlier.append(passage)

    def asked(self) -> Iterator[Passage]:
        """Yield the passages that are asked about."""
        left = (p for p in self.passages() if p.id not in self.left_out)
        yield from islice(left, self.limit)

    def _unanswerable(self, passage: Passage) -> int:
        """Return how many such questions a passage is asked for, so that they make the share."""
        wanted = self.unanswerable / (1 - self.unanswerable) * len(self.styles)
        times = ceil(wanted)  # as many pairs as so many styles give
        place = int(sha256_text(str(self.seed), UNANSWERABLE, passage.id)[:15], 16) / 16**15
        return self.n * times if place * times < wanted else 0


def _partner(passage: Passage, earlier: Sequence[Passage]) -> Passage | None:
    """Return the earlier passage of the document with the most words in common, if any has some."""
    own = set(words(passage.text))
    best, partner = _PARTNERS_SHARE, None
    for other in earlier:
        theirs = set(words(other.text))
        share = len(own & theirs) / max(min(len(own), len(theirs)), 1)
        if share > best:
            best, partner = share, other
    return partner
