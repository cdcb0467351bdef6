"""`ragkit index`: a corpus into an index directory."""

from pathlib import Path

from pydantic import Field
from rich.console import RenderableType

from ragkit.config.blocks import EMBEDDED, EncoderOptions, InputPath, ModelRef, ReadingConfig
from ragkit.data.corpus import open_corpus
from ragkit.data.files import read_json
from ragkit.models.encoder import Encoder
from ragkit.retrieval.index import build_index
from ragkit.runs import Run
from ragkit.stages.sources import bad_lines

DISTRIBUTED = True


class Config(ReadingConfig):
    """Configuration of `index`."""

    corpus: InputPath = Field(description="JSONL of passages")
    model: ModelRef = Field(EMBEDDED, description="the encoder")
    encoder: EncoderOptions = EncoderOptions()


def run(config: Config, run: Run) -> None:
    """Encode; write embeddings.npy, ids.txt and manifest.json."""
    corpus = open_corpus(config.corpus, bad_lines(config, run))
    encoder = Encoder.load(config.model, config.encoder)
    with run.timed("encoding"):
        build_index(encoder, corpus, config.model, config.encoder, run.path, shared=True)


def show(path: Path) -> RenderableType:
    """Say what is in the index."""
    manifest = read_json(path / "manifest.json")
    return (
        f"{manifest['passages']:,} passages as vectors of {manifest['dimensions']} dimensions "
        f"by {manifest['model']}, in {path}"
    )
