"""The prompt that a generator gets: one function, used wherever a model is trained or asked; and
what its answer says of itself.

What a passage looks like in a prompt is `Passage.rendered`. Which passages go in is the caller's
choice, and what tokens become of it `ragkit.rag.prompting`'s business.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ragkit.config.answering import PlainTemplate, Prompting
from ragkit.data.schema import Example, Passage, Turn

CITE = "After each statement give the number of the passage that it stands in, as [1]."
_CITED = re.compile(r"\s*\[(\d+(?:\s*,\s*\d+)*)\]")
_DEFAULT = Prompting()
REFUSAL = _DEFAULT.refusal


def messages(
    example: Example,
    passages: Sequence[Passage],
    cite: bool = False,
    prompt: Prompting = _DEFAULT,
) -> list[dict[str, str]]:
    """Return the chat messages: instructions, history, passages and question.

    cite: ask for the numbers of the passages, which `without_citations` takes out of the answer
    """
    return chat(example, [p.rendered for p in passages], example.history, cite, prompt)


def chat(
    example: Example,
    texts: Sequence[str],
    history: Sequence[Turn],
    cite: bool,
    prompt: Prompting,
) -> list[dict[str, str]]:
    """Return the same of passages' texts and turns, which may be less than all there was."""
    context = "\n\n".join(f"[{n}] {text}" for n, text in enumerate(texts, start=1))
    turns = [{"role": turn.role, "content": turn.content} for turn in history]
    question = f"Passages:\n\n{context}\n\nQuestion: {example.question}"
    system = prompt.system.replace("{refusal}", prompt.refusal)
    system = f"{system} {CITE}" if cite else system
    instructions = [{"role": "system", "content": system}] if system else []
    return [*instructions, *turns, {"role": "user", "content": question}]


def pair_text(example: Example, text: str, history: Sequence[Turn]) -> str:
    """Return what an encoder reads of a question and one passage (fusion-in-decoder)."""
    turns = "".join(f"{turn.role.capitalize()}: {turn.content}\n" for turn in history)
    return f"{turns}Question: {example.question}\nPassage: {text}"


def plain_text(chat: Sequence[Mapping[str, Any]], template: PlainTemplate = _DEFAULT.plain) -> str:
    """Return chat messages as one text, for models without a chat template, up to the answer."""
    prefix = {
        "system": template.system_prefix,
        "user": template.user_prefix,
        "assistant": template.assistant_prefix,
    }
    end = {
        "system": template.sep_system,
        "user": template.sep_user,
        "assistant": template.sep_assistant,
    }
    said = [_after(prefix[m["role"]], m["content"]) + end[m["role"]] for m in chat]
    return "".join(said) + template.assistant_prefix


def plain_answer(answer: str, template: PlainTemplate = _DEFAULT.plain) -> str:
    """Return what follows `plain_text` where the answer is this."""
    return _after(template.assistant_prefix, answer).removeprefix(template.assistant_prefix)


def without_citations(answer: str, passages: Sequence[Passage]) -> tuple[str, tuple[str, ...]]:
    """Return an answer without the numbers of passages, and the ids that these stand for.

    A number that no passage has stands for itself, `[7]`: it was made up.
    """
    numbers = [int(n) for found in _CITED.findall(answer) for n in found.split(",")]
    ids = [passages[n - 1].id if 0 < n <= len(passages) else f"[{n}]" for n in numbers]
    return _CITED.sub("", answer).strip(), tuple(dict.fromkeys(ids))


def is_refusal(answer: str, refusal: str = REFUSAL) -> bool:
    """Return whether an answer says that there is none."""
    said = " ".join(answer.lower().split()).strip(" .")
    return not said or said.startswith(" ".join(refusal.lower().split()).rstrip("."))


def _after(prefix: str, content: str) -> str:
    """Put a prefix before a content, a space between them unless the prefix brings white space."""
    return f"{prefix}{content}" if not prefix or prefix[-1].isspace() else f"{prefix} {content}"
