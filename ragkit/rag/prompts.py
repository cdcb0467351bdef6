"""The prompt that a generator gets: one function, used wherever a model is trained or asked; and
what its answer says of itself.

What a passage looks like in a prompt is `Passage.rendered`. Which passages go in is the caller's
choice.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ragkit.data.schema import Example, Passage

REFUSAL = "I cannot answer this from the documents."
SYSTEM = (
    "Answer the question from the passages given, in one or two sentences, with the facts as they "
    f"stand there. If the passages do not answer it, say exactly: {REFUSAL}"
)
CITE = "After each statement give the number of the passage that it stands in, as [1]."
_CITED = re.compile(r"\s*\[(\d+(?:\s*,\s*\d+)*)\]")


def messages(
    example: Example, passages: Sequence[Passage], cite: bool = False
) -> list[dict[str, str]]:
    """Return the chat messages: instructions, history, passages and question.

    cite: ask for the numbers of the passages, which `without_citations` takes out of the answer
    """
    context = "\n\n".join(f"[{n}] {p.rendered}" for n, p in enumerate(passages, start=1))
    turns = [{"role": turn.role, "content": turn.content} for turn in example.history]
    question = f"Passages:\n\n{context}\n\nQuestion: {example.question}"
    system = f"{SYSTEM} {CITE}" if cite else SYSTEM
    return [{"role": "system", "content": system}, *turns, {"role": "user", "content": question}]


def plain_text(chat: Sequence[Mapping[str, Any]]) -> str:
    """Return chat messages as one text, for models without a chat template."""
    names = {"system": "", "user": "", "assistant": "Answer: "}
    return "\n\n".join(names[m["role"]] + m["content"] for m in chat) + "\n\nAnswer:"


def without_citations(answer: str, passages: Sequence[Passage]) -> tuple[str, tuple[str, ...]]:
    """Return an answer without the numbers of passages, and the ids that these stand for.

    A number that no passage has stands for itself, `[7]`: it was made up.
    """
    numbers = [int(n) for found in _CITED.findall(answer) for n in found.split(",")]
    ids = [passages[n - 1].id if 0 < n <= len(passages) else f"[{n}]" for n in numbers]
    return _CITED.sub("", answer).strip(), tuple(dict.fromkeys(ids))


def is_refusal(answer: str) -> bool:
    """Return whether an answer says that there is none."""
    said = " ".join(answer.lower().split()).strip(" .")
    return not said or said.startswith(REFUSAL.lower().rstrip("."))
