"""A guide's vectors of all training texts, computed once: what GISTEmbed masks negatives with.

They are written to files beside the checkpoints and memory-mapped from there; an interrupted run
finds them again.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from ragkit.config.training import Guide
from ragkit.data.schema import Example, Passage
from ragkit.errors import ConfigError
from ragkit.models import ranks
from ragkit.models.encoder import Encoder
from ragkit.retrieval.encode import Vectors, encode
from ragkit.retrieval.searchers import query_text
from ragkit.training.collate import passage_table


def guide_vectors(
    guide: Guide,
    examples: Sequence[Example],
    corpus: Mapping[str, Passage],
    folder: Path,
    device: Literal["auto", "cpu"] = "auto",
) -> tuple[Vectors, Vectors]:
    """Return the guide's vectors of the questions, as given, and of `passage_table`'s passages.

    Where several processes train, all of them call this together, and each encodes its share.

    device: where the guide encodes if it does not say so itself

    Raises:
        ConfigError: the processes are on several machines.
        ModelError: the guide cannot be loaded.
    """
    if ranks.on_several_machines():
        raise ConfigError(
            "loss.guide: its vectors are in a file that the processes of one machine share, and "
            "these are on several; leave it out (loss.false_negative_margin needs no file)"
        )
    options = guide.encoder
    if options.device == "auto":
        options = options.model_copy(update={"device": device})
    encoder = Encoder.load(guide.model, options)
    folder = folder / "guide"
    folder.mkdir(parents=True, exist_ok=True)
    queries = [query_text(e) for e in examples]
    passages = [corpus[i].rendered for i in passage_table(examples)]
    return (
        encode(encoder, queries, "query", options, folder / "queries.npy", shared=True),
        encode(encoder, passages, "passage", options, folder / "passages.npy", shared=True),
    )
