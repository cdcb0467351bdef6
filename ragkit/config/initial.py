"""Generators to begin with: what kind, and how large."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ragkit.config.blocks import EMBEDDED, Block, ModelRef

BYTES = 256


class _Small(Block):
    """The size of a model that begins at random, with a tokenizer trained on the corpus."""

    type: Literal["causal", "t5"]
    vocabulary: int = Field(
        4096, description="tokens; fewer where the corpus is too small for so many"
    )
    hidden_size: int = Field(256, gt=0, description="dimensions of a token's state")
    layers: int = Field(4, gt=0, description="of the decoder, and of an encoder if there is one")
    heads: int = Field(4, gt=0, description="of attention; they share the hidden size")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.vocabulary < BYTES + 3:
            raise ValueError(
                f"vocabulary: {self.vocabulary} is below {BYTES + 3}, the {BYTES} bytes that every "
                "text is made of and 3 special tokens"
            )
        if self.hidden_size % (2 * self.heads):
            raise ValueError(
                f"heads: {self.heads} do not divide hidden_size: {self.hidden_size} into equal "
                "shares of an even number of dimensions"
            )
        return self


class Causal(_Small):
    """A decoder (Llama) that begins at random."""

    type: Literal["causal"]
    positions: int = Field(1024, gt=8, description="tokens of prompt and answer, at most")
    chat_template: bool = Field(
        False, description="give the tokenizer a chat template, in the manner of ChatML"
    )


class T5(_Small):
    """An encoder and a decoder (T5 v1.1) that begin at random."""

    type: Literal["t5"]


class EncoderDecoder(Block):
    """An encoder as it is, and a decoder made of its layers (warm start)."""

    type: Literal["encoder-decoder"]
    encoder: ModelRef = Field(EMBEDDED, description="a BERT: hub name, folder, run or embedded")
    decoder_layers: int | None = Field(
        None, gt=0, description="so many of the encoder's, evenly apart; unset: all of them"
    )


Architecture = Annotated[Causal | T5 | EncoderDecoder, Field(discriminator="type")]
