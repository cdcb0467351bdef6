"""The prompt that a generator gets: one function, used wherever a model is trained or asked.

What a passage looks like in a prompt is `Passage.rendered`. Which passages go in is the caller's
choice.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ragkit.data.schema import Example, Passage

REFUSAL = "I cannot answer this from the documents."
SYSTEM = (
    "Answer the question from the passages given, in one or two sentences, with the facts as they "
    f"stand there. If the passages do not answer it, say exactly: {REFUSAL}"
)


def messages(example: Example, passages: Sequence[Passage]) -> list[dict[str, str]]:
    """Return the chat messages: instructions, history, passages and question."""
    context = "\n\n".join(f"[{n}] {p.rendered}" for n, p in enumerate(passages, start=1))
    turns = [{"role": turn.role, "content": turn.content} for turn in example.history]
    question = f"Passages:\n\n{context}\n\nQuestion: {example.question}"
    return [{"role": "system", "content": SYSTEM}, *turns, {"role": "user", "content": question}]


def plain_text(chat: Sequence[Mapping[str, Any]]) -> str:
    """Return chat messages as one text, for models without a chat template."""
    names = {"system": "", "user": "", "assistant": "Answer: "}
    return "\n\n".join(names[m["role"]] + m["content"] for m in chat) + "\n\nAnswer:"


def is_refusal(answer: str) -> bool:
    """Return whether an answer says that there is none."""
    said = " ".join(answer.lower().split()).strip(" .")
    return not said or said.startswith(REFUSAL.lower().rstrip("."))
