"""Who judges answers: a model behind a server, or a local one."""

from typing import Annotated, Literal

from pydantic import Field

from ragkit.config.blocks import Endpoint, LocalModel


class OpenAIJudge(Endpoint):
    """A model behind an OpenAI-compatible server."""

    type: Literal["openai"]
    structured: bool = Field(
        True, description="ask for JSON by response_format, in the strictest form the server takes"
    )


class HfJudge(LocalModel):
    """A local causal or encoder-decoder model, in batches, by its chat template."""

    type: Literal["hf"]
    max_new_tokens: int = Field(512, gt=0, description="longest reply, in tokens")


Judge = Annotated[OpenAIJudge | HfJudge, Field(discriminator="type")]
