"""Systems that answer questions from passages, and what a generator among them is told."""

from typing import Annotated, Literal

from pydantic import Field

from ragkit.config.blocks import (
    EMBEDDED,
    Block,
    Device,
    EncoderOptions,
    Endpoint,
    LocalModel,
    ModelRef,
    Precision,
)


class ExtractiveAnswerer(Block):
    """The sentences of the passages that are nearest to the question; no generator."""

    type: Literal["extractive"]
    model: ModelRef = Field(EMBEDDED, description="the encoder that compares sentences")
    n_sentences: int = Field(1, gt=0, description="sentences in an answer")
    min_score: float = Field(0.0, description="below this similarity it abstains; 0: never")
    encoder: EncoderOptions = EncoderOptions()


class PlainTemplate(Block):
    """How a chat is written for a model whose tokenizer has no chat template."""

    system_prefix: str = Field("", description="before the instructions")
    user_prefix: str = Field("", description="before what a user says, e.g. `<human>:`")
    assistant_prefix: str = Field("Answer:", description="before what is answered, e.g. `<bot>:`")
    sep_system: str = Field("\n\n", description="after the instructions")
    sep_user: str = Field("\n\n", description="after what a user says")
    sep_assistant: str = Field("\n\n", description="after what was answered, in a history")


class Prompting(Block):
    """What a generator is told, the same when it is trained and when it is asked."""

    system: str = Field(
        "Answer the question from the passages given, in one or two sentences, with the facts as "
        "they stand there. If the passages do not answer it, say exactly: {refusal}",
        description="instructions; `{refusal}` stands for the refusal",
    )
    refusal: str = Field(
        "I cannot answer this from the documents.",
        min_length=1,
        description="what is answered to a question that the passages do not answer",
    )
    template: Literal["auto", "plain"] = Field(
        "auto", description="auto: the tokenizer's chat template where it has one"
    )
    template_options: dict[str, bool | int | str] = Field(
        {"enable_thinking": False}, description="variables of the tokenizer's chat template"
    )
    plain: PlainTemplate = PlainTemplate()


_ASK = (
    "ask for the numbers of passages after each statement; they are taken out of the answer, and "
    "scored"
)
_CITE = Field(
    None,
    description=f"{_ASK}; unset: as the model was trained, else no",
)
_PROMPT = Field(None, description="what it is told; unset: as the model was trained")


_MOST = Field(
    None, gt=0, description="longest answer, in tokens; unset: as the model was trained, else 128"
)


class HfAnswerer(LocalModel):
    """A local causal or encoder-decoder model."""

    type: Literal["hf"]
    max_new_tokens: int | None = _MOST  # type: ignore[assignment]
    cite: bool | None = _CITE
    prompt: Prompting | None = _PROMPT
    max_length: int | None = Field(
        None, gt=8, description="tokens of prompt and answer; unset: as trained, else the model's"
    )


class FidAnswerer(LocalModel):
    """A fusion-in-decoder model that `ragkit train-generator` made (method fid)."""

    type: Literal["fid"]
    max_new_tokens: int | None = _MOST  # type: ignore[assignment]


class ReaderAnswerer(Block):
    """A span reader: the words of a passage that answer, and a score that none does."""

    type: Literal["reader"]
    model: ModelRef = Field(description="hub name, folder or run directory")
    max_answer_tokens: int | None = Field(
        None, gt=0, description="longest answer, in tokens; unset: as it was trained, else 40"
    )
    tokens_per_batch: int | None = Field(
        None, gt=0, description="unset: 2,048 on a CPU, 65,536 on a GPU"
    )
    no_answer_margin: float | None = Field(
        None,
        description="abstain where no span's score is so far above that of no answer; unset: as "
        "chosen in training, else 0",
    )
    precision: Precision = Field(
        "fp32", description="bf16: faster, less exact; auto: bf16 where there is hardware for it"
    )
    device: Device = Field("auto", description="auto: cuda, else mps, else cpu")


class OpenAIAnswerer(Endpoint):
    """A model behind an OpenAI-compatible server."""

    type: Literal["openai"]
    cite: bool = Field(False, description=_ASK)
    prompt: Prompting = Prompting()


Answerer = Annotated[
    ExtractiveAnswerer | ReaderAnswerer | HfAnswerer | FidAnswerer | OpenAIAnswerer,
    Field(discriminator="type"),
]
