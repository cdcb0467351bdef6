"""The rules of ChatRAG-Bench, where they differ from ragkit's own (Liu et al., 2024, ChatQA).

A question is searched for with the messages before it, among the passages of its own document; an
answer that says it cannot be found is a refusal, and refusing is right where there is no answer.
"""

import re
from collections.abc import Mapping

from ragkit.data.formats.chatrag import ABOUT
from ragkit.data.schema import Conversation, Example, Passage

METRICS = ["recall@1", "recall@5", "recall@20"]
_MESSAGES = 5
_ROLES = {"assistant": "agent"}
_REFUSAL = re.compile(
    r"cannot find|can't find|couldn't find|not able to|unable to|cannot (?:provide|answer)|"
    r"cannot be (?:found|determined)|(?:does|do) ?n[o']t (?:provide|have information)|"
    r"no information in the context",
    re.IGNORECASE,
)


def query(example: Example) -> Conversation:
    """Return the last five messages, `user: ...` and `agent: ...`, the question last."""
    said = [(turn.role, turn.content) for turn in example.history] + [("user", example.question)]
    return Conversation([f"{_ROLES.get(role, role)}: {text}" for role, text in said[-_MESSAGES:]])


def document_of(example: Example, corpus: Mapping[str, Passage]) -> str | None:
    """Return the document that a question is about; None where nothing says it."""
    if example.positive_ids:
        return corpus[example.positive_ids[0]].source
    named = example.meta.get(ABOUT)
    return None if named is None else str(named)


def refuses(answer: str) -> bool:
    """Return whether an answer says that it cannot be found."""
    return bool(_REFUSAL.search(answer))
