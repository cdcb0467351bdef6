"""A server's answer in pieces, as it comes; many answers at once are `endpoint`'s business."""

from collections.abc import Iterator

import openai

from ragkit.errors import EndpointError
from ragkit.models.chats import Chat
from ragkit.models.endpoint import Client
from ragkit.models.refusals import UNREADABLE


def stream(client: Client, chat: Chat) -> Iterator[str]:
    """Yield the pieces of one answer.

    It is tried again only as long as nothing of it has come.

    Raises:
        EndpointError: refused, still failing after the retries, or broken off.
    """
    config = client.config
    body = {
        "model": config.model,
        "messages": list(chat),
        "stream": True,
        **client.parameters(None, None),
    }
    api = openai.OpenAI(
        api_key=client.key or "none",
        base_url=config.base_url,
        timeout=config.timeout_s,
        max_retries=config.max_retries,
    )
    try:
        with api, api.chat.completions.create(**body) as events:
            for event in events:
                if event.choices and (piece := event.choices[0].delta.content):
                    yield piece
    except openai.APITimeoutError as error:
        raise EndpointError(client.explain(TimeoutError())) from error
    except (openai.OpenAIError, *UNREADABLE) as error:
        raise EndpointError(client.explain(error)) from error
