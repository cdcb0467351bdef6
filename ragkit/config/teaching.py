"""What question generation is made of: teachers, and the filters for what they write."""

from typing import Annotated, Any, Literal

from pydantic import Field

from ragkit.config.blocks import (
    EMBEDDED,
    Block,
    EncoderOptions,
    Endpoint,
    InputPath,
    LocalModel,
    ModelRef,
)


class HeuristicTeacher(Block):
    """Questions by rules, without a model: from headings, definitions, lists, numbers, cloze."""

    type: Literal["heuristic"]
    n: int = Field(3, gt=0, description="questions a passage, at most")


class RecordedTeacher(Block):
    """The answers of an earlier teacher, looked up by passage text and style; asks nobody."""

    type: Literal["recorded"]
    journal: InputPath = Field(description="the journal.jsonl that was recorded")


class OpenAITeacher(Endpoint):
    """A model behind an OpenAI-compatible server."""

    type: Literal["openai"]
    n: int = Field(2, gt=0, description="questions a passage and style")
    structured: bool = Field(
        True, description="ask for JSON by response_format, in the strictest form the server takes"
    )
    temperature: float | None = Field(
        0.7, ge=0, description="of sampling; null: the server's own (some models take no other)"
    )


class HfTeacher(LocalModel):
    """A local causal or encoder-decoder model, in batches, by its chat template."""

    type: Literal["hf"]
    n: int = Field(2, gt=0, description="questions a passage and style")
    max_new_tokens: int = Field(512, gt=0, description="longest answer, in tokens")
    temperature: float = Field(0.7, ge=0, description="of sampling; 0: greedy")


class VllmTeacher(Block):
    """A local model run by vLLM's own engine (the package vllm), all requests at once."""

    type: Literal["vllm"]
    model: ModelRef = Field(description="hub name, folder or run directory")
    n: int = Field(2, gt=0, description="questions a passage and style")
    max_tokens: int = Field(1024, gt=0, description="longest answer, in tokens")
    temperature: float = Field(0.7, ge=0, description="of sampling; 0: greedy")
    seed: int = Field(0, description="of sampling")
    structured: bool = Field(True, description="hold the model to the JSON that is asked for")
    engine: dict[str, Any] = Field(
        {}, description="arguments of vllm.LLM: tensor_parallel_size, max_model_len, ..."
    )


ModelTeacher = OpenAITeacher | HfTeacher | VllmTeacher
AnswerTeacher = Annotated[ModelTeacher | RecordedTeacher, Field(discriminator="type")]
Teacher = Annotated[HeuristicTeacher | RecordedTeacher | ModelTeacher, Field(discriminator="type")]


class RoundTrip(Block):
    """A training question is kept if a search with it finds its passage again."""

    top_k: int = Field(100, gt=0, description="passages of each search that are looked at")
    model: ModelRef | None = Field(
        EMBEDDED, description="the encoder that searches beside BM25; null: BM25 alone"
    )
    encoder: EncoderOptions = EncoderOptions(precision="auto")


class Filters(Block):
    """What a question must be to be kept; test questions are held to form alone."""

    language: bool = Field(True, description="refuse answers in another language than is asked for")
    copied: float = Field(
        0.8, gt=0, le=1, description="share of a question in one run of words of its passage"
    )
    support: float = Field(
        0.5, ge=0, le=1, description="least share of an answer's words that its passage has; 0: any"
    )
    leak_rouge_l: float = Field(
        0.7, gt=0, le=1, description="ROUGE-L to a held-out question that is too close"
    )
    duplicate_cosine: float = Field(
        0.95, gt=0, le=1, description="cosine of two questions of a passage that mean the same"
    )
    round_trip: RoundTrip | None = Field(
        RoundTrip(), description="training questions must find their passage; null: need not"
    )
