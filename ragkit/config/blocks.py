"""The blocks that several commands' configurations share.

Values only: what a block means is the business of the module that takes it. Importing this module
costs pydantic and nothing heavier.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

EMBEDDED = "embedded"  # the encoder that comes with the quickstart extra
Precision = Literal["auto", "fp32", "bf16"]
Device = Literal["auto", "cpu", "cuda", "mps"]


class Block(BaseModel):
    """A mapping of a configuration; unknown keys are errors, values do not change once built."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


@dataclass(frozen=True)
class _Mark:
    kind: Literal["input", "model"]


def _must_exist(path: Path, info: ValidationInfo) -> Path:
    if not path.exists() and not is_pending(path, info.context):
        raise ValueError(f"{str(path)!r}: no such file or folder")
    return path


def _not_empty(value: object) -> object:
    if value == "":
        raise ValueError("empty; a file or folder is wanted")
    return value


def is_pending(path: Path, context: Mapping[str, Any] | None) -> bool:
    """Return True for a file that an earlier step of a pipeline has still to make."""
    return any(path.is_relative_to(folder) for folder in (context or {}).get("pending", ()))


InputPath = Annotated[
    Path, _Mark("input"), BeforeValidator(_not_empty), AfterValidator(_must_exist)
]
ModelRef = Annotated[str, _Mark("model"), Field(min_length=1)]


def consumed(block: BaseModel, prefix: str = "") -> Iterator[tuple[str, Path | str, str]]:
    """Yield (dotted key, value, "input" or "model") of every file and model that a block names."""
    for name, info in type(block).model_fields.items():
        value, key = getattr(block, name), f"{prefix}{name}"
        kind = next((m.kind for m in _marks([*info.metadata, info.annotation])), None)
        for item_key, item in _items(key, value):
            if isinstance(item, BaseModel):
                yield from consumed(item, f"{item_key}.")
            elif kind and item is not None:
                yield item_key, item, kind


def _items(key: str, value: object) -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, item) of a list or mapping; a single value is its own only item."""
    if isinstance(value, Mapping):
        yield from ((f"{key}.{name}", item) for name, item in value.items())
    elif isinstance(value, list | tuple):
        yield from ((f"{key}.{i}", item) for i, item in enumerate(value))
    else:
        yield key, value


def _marks(annotations: list[Any]) -> Iterator[_Mark]:
    for annotation in annotations:
        if isinstance(annotation, _Mark):
            yield annotation
        else:
            yield from _marks(list(get_args(annotation)))


class StageConfig(Block):
    """What every command's configuration has.

    UNCOMPARED: keys that a run directory may change between two starts, because they do not touch
    the result or because somebody else keeps watch over them
    """

    UNCOMPARED: ClassVar[frozenset[str]] = frozenset(
        {
            "concurrency",
            "requests_per_minute",
            "tokens_per_minute",
            "timeout_s",
            "max_retries",
            "max_silent",
            "max_failed",
            "control_accuracy",
            "max_cost",
            "max_requests",
            "prices",
            "review",
        }  # fmt: skip
    )

    output: Path | None = Field(None, description="run directory; default runs/<command>-<hash>")
    seed: int = Field(0, description="seed of everything that is drawn at random")


class ReadingConfig(StageConfig):
    """What a command's configuration has where it reads texts, passages or examples."""

    skip_bad: bool = Field(
        False, description="set malformed lines aside in bad-lines.jsonl instead of stopping"
    )


class BuyingConfig(StageConfig):
    """What a command's configuration has where it asks models whose answers cost something."""

    journal: Path | None = Field(
        None, description="where answers are kept, to be shared by runs; unset: the run directory"
    )
    max_cost: float | None = Field(
        None, ge=0, description="US dollars that this start may spend; needs prices"
    )
    max_requests: int | None = Field(
        None, ge=0, description="requests this start may send, repeated ones included"
    )
    prices: InputPath | None = Field(
        None, description="YAML of {model: {input, output}}, US dollars per million tokens"
    )


class Columns(Block):
    """Names of the columns (CSV) or fields (JSONL) of foreign files; unset ones are looked for."""

    text: str | None = Field(
        None, description="the text; usual names: text, passage, content, body"
    )
    title: str | None = Field(None, description="the title; usual names: title, heading, name")
    section: str | None = Field(None, description="added to the title as `Title > Section`")
    id: str | None = Field(None, description="a unique id; made from the text where there is none")
    doc_id: str | None = Field(None, description="the document a row belongs to; else its title")


class QuestionColumns(Block):
    """Names of the columns or fields of foreign questions; unset ones are looked for."""

    question: str | None = Field(None, description="usual names: question, query, claim")
    id: str | None = Field(None, description="a unique id; made from the row where there is none")
    answers: str | None = Field(
        None, description="one or a list; usual names: answers, answer, response, answer_span"
    )
    positive_ids: str | None = Field(
        None,
        description="ids of passages that answer; usual names: positive_ids, passage_ids, "
        "passage_id, cited_doc_ids",
    )
    negative_ids: str | None = Field(None, description="ids of passages that do not")
    history: str | None = Field(None, description="the turns before: a list of {role, content}")


class Chunking(Block):
    """How long texts are cut into passages."""

    max_tokens: int = Field(200, gt=15, description="longest passage, its title included")
    overlap: int = Field(0, ge=0, description="tokens that neighbouring passages share")
    tokenizer: ModelRef = Field(EMBEDDED, description="whose tokens are counted: a model reference")

    @model_validator(mode="after")
    def _check_overlap(self) -> Self:
        if self.overlap >= self.max_tokens // 2:
            raise ValueError(f"overlap: {self.overlap} is not below half of max_tokens")
        return self


class DocumentSource(ReadingConfig):
    """Where passages or documents are read from."""

    input: InputPath = Field(
        description="CSV, TSV, JSONL, Parquet, Markdown, reST, HTML, DOCX, PDF or text, or a folder"
    )
    columns: Columns = Columns()
    markup: Literal["plain", "markdown", "rst", "html"] = Field(
        "plain", description="of the texts in CSV, JSONL and Parquet files"
    )
    encoding: str = Field("utf-8", description="of the input files")
    max_cell_chars: int = Field(
        1_000_000, gt=0, description="a longer cell is taken for a missing closing quote"
    )


class Vectors(Block):
    """What turns a transformer's states into vectors; unset values are read from the model."""

    pooling: Literal["mean", "cls", "last"] | None = Field(
        None, description="unset: the model's own"
    )
    normalize: bool | None = Field(
        None, description="unit vectors; unset: the model's own, else yes"
    )
    query_prefix: str | None = Field(None, description="put before a question; unset: the model's")
    passage_prefix: str | None = Field(None, description="put before a passage; unset: the model's")
    max_length: int | None = Field(None, gt=2, description="tokens; unset: the model's own")


class EncoderOptions(Vectors):
    """How texts become vectors; unset values are read from the model's folder."""

    passage_model: ModelRef | None = Field(
        None, description="an encoder for passages, where `model` is for questions; unset: the same"
    )
    append_eos: bool = Field(
        False, description="end every text with the end-of-sequence token, if it does not already"
    )
    precision: Precision = Field(
        "fp32", description="bf16: faster, less exact; auto: bf16 where there is hardware for it"
    )
    device: Device = Field("auto", description="auto: cuda, else mps, else cpu")
    trust_remote_code: bool = Field(False, description="run code that comes with a model")


class Bm25(Block):
    """Ranking by words (BM25)."""

    type: Literal["bm25"]
    k1: float = Field(1.2, ge=0, description="saturation of a word's count")
    b: float = Field(0.75, ge=0, le=1, description="strength of the length normalisation")
    stopwords: Literal["english", "none"] = Field("english", description="words left out")


class Dense(Block):
    """Ranking by the similarity of an encoder's vectors."""

    type: Literal["dense"]
    model: ModelRef = Field(EMBEDDED, description="hub name, folder, run directory, or embedded")
    index: InputPath | None = Field(None, description="an index directory; unset: encode now")
    encoder: EncoderOptions = EncoderOptions()


class Fused(Block):
    """Dense and BM25 together: reciprocal ranks, or a weighted sum of normalised scores."""

    type: Literal["fused"]
    method: Literal["rrf", "weighted"] = Field("rrf", description="reciprocal rank or weighted sum")
    weight: float | Literal["auto"] = Field(
        "auto", description="share of dense in the weighted sum, 0 to 1; auto: chosen on dev"
    )
    rrf_k: int = Field(60, gt=0, description="constant of reciprocal rank fusion")
    dense: Dense = Dense(type="dense")
    bm25: Bm25 = Bm25(type="bm25")

    @model_validator(mode="after")
    def _check_weight(self) -> Self:
        if self.weight != "auto" and not 0 <= self.weight <= 1:
            raise ValueError(f"weight: {self.weight} is not between 0 and 1")
        for key, method in (("weight", "weighted"), ("rrf_k", "rrf")):
            if key in self.model_fields_set and self.method != method:
                raise ValueError(f"{key}: goes with method: {method}, and this is {self.method}")
        return self


Retriever = Annotated[Bm25 | Dense | Fused, Field(discriminator="type")]


class Reranker(Block):
    """A cross-encoder that scores a question and a passage together."""

    model: ModelRef = Field(description="cross-encoder: hub name, folder or run directory")
    max_length: int | None = Field(
        None, gt=4, description="tokens of question and passage; unset: the model's own"
    )
    tokens_per_batch: int | None = Field(
        None, gt=0, description="padding included; unset: 2,048 on a CPU, 65,536 on a GPU"
    )
    precision: Precision = Field(
        "fp32", description="bf16: faster, less exact; auto: bf16 where there is hardware for it"
    )
    device: Device = Field("auto", description="auto: cuda, else mps, else cpu")
    trust_remote_code: bool = Field(False, description="run code that comes with a model")


class Endpoint(Block):
    """An OpenAI-compatible server. The key is named by environment variable, never written here."""

    model: str = Field(description="the model's name on the server")
    base_url: str | None = Field(None, description="the server; unset: OpenAI's own")
    api_key_env: str = Field("OPENAI_API_KEY", description="environment variable with the key")
    concurrency: int = Field(16, gt=0, description="requests in flight")
    requests_per_minute: int | None = Field(None, gt=0, description="what the server allows")
    tokens_per_minute: int | None = Field(None, gt=0, description="what the server allows")
    timeout_s: float = Field(60.0, gt=0, description="for one try, from beginning to end")
    max_retries: int = Field(
        5,
        ge=0,
        description="of a request, after 408, 409, 429, 5xx, time-outs and broken connections",
    )
    temperature: float | None = Field(
        0.0, ge=0, description="of sampling; null: the server's own (some models take no other)"
    )
    max_tokens: int = Field(1024, gt=0, description="longest answer, in tokens")

    @field_validator("base_url")
    @classmethod
    def _check_base_url(cls, url: str | None) -> str | None:
        if url is None:
            return None
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"{url!r} does not begin with http:// or https://")
        try:
            parts = urlsplit(url)
            parts.port  # noqa: B018  (read only when asked for)
        except ValueError as error:
            raise ValueError(f"{url!r} is no address: {error}") from error
        if not parts.hostname or set(url) & set(" \t\n"):
            raise ValueError(f"{url!r} is no address: http://HOST:PORT/v1 or https://... is wanted")
        return url


class LocalModel(Block):
    """A local causal or encoder-decoder model, and how it generates."""

    model: ModelRef = Field(description="hub name, folder or run directory")
    max_new_tokens: int = Field(128, gt=0, description="longest answer, in tokens")
    batch_size: int = Field(8, gt=0, description="texts generated together")
    temperature: float = Field(0.0, ge=0, description="of sampling; 0: greedy")
    top_p: float = Field(
        1.0, gt=0, le=1, description="sample from the likeliest tokens of this sum"
    )
    top_k: int = Field(0, ge=0, description="sample from so many likeliest tokens; 0: from all")
    stop: list[Annotated[str, Field(min_length=1)]] = Field(
        [], description="texts that end an answer and are left out of it"
    )
    seed: int = Field(0, description="of sampling, where the temperature is above 0")
    precision: Precision = Field(
        "auto", description="auto: bf16 where the machine multiplies in it"
    )
    device: Device = Field("auto", description="auto: cuda, else mps, else cpu")
    trust_remote_code: bool = Field(False, description="run code that comes with a model")


def beside(path: Path, name: str, context: Mapping[str, Any] | None = None) -> Path | None:
    """Return the other file called `name` in `path`'s folder, if there is or will be one."""
    candidate = path.parent / name
    if candidate == path:
        return None
    return candidate if candidate.exists() or is_pending(candidate, context) else None
