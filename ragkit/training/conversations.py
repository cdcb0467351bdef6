"""From chats to what a decoder learns from them: every turn of the assistant, nothing else."""

from collections.abc import Mapping, Sequence

from ragkit.data.schema import Turn
from ragkit.errors import DataError, ModelError
from ragkit.log import logger
from ragkit.rag.prompting import Prompter
from ragkit.training.items import Continued

Said = list[dict[str, str]]


def chat_items(
    chats: Mapping[str, Sequence[Turn]], prompter: Prompter, where: str
) -> list[Continued]:
    """Return what is learned from chats, by their ids; say how many cannot be.

    Where a chat is too long, its first turns go, instructions apart.

    Raises:
        DataError: none can.
        ModelError: the chat template cannot write one.
    """
    items, shortened, lost = [], 0, 0
    for key, turns in chats.items():
        said = [{"role": t.role, "content": t.content} for t in turns]
        while said and not _answers(said[-1]):
            said.pop()  # nothing is answered
        whole = len(said)
        try:
            found = _item(key, said, prompter)
            while found is not None and len(found[0].ids) > prompter.max_length:
                said = _without_first(said)
                found = _item(key, said, prompter)
        except ModelError as error:
            raise ModelError(f"{where}: {key}: {error}") from error
        if found is not None:
            shortened += len(said) < whole
            items.append(found[0])
            lost += found[1]
    if not items:
        raise DataError(f"{where}: none of {len(chats)} chats has an answer that can be learned")
    if len(items) < len(chats) or shortened:
        logger.warning(
            "%s: of %d chats %d are left out (no answer, or one that is too long), and %d lose "
            "their first turns", where, len(chats), len(chats) - len(items), shortened,
        )  # fmt: skip
    if lost:
        logger.warning(
            "%s: answers that are read and not learned: %d (once they are past, the prompt writes "
            "them in other tokens); the last of each chat is learned",
            where, lost,
        )  # fmt: skip
    return items


def _item(key: str, said: Said, prompter: Prompter) -> tuple[Continued, int] | None:
    """Return the tokens of a chat with its answers as targets; None where there is none.

    An answer whose prompt the whole does not begin with (a template may write turns that are past
    in another way) is left out, and counted beside; the last one never is.
    """
    answers = [n for n, m in enumerate(said) if _answers(m) and n > 0]
    if not answers or all(m["role"] == "system" for m in said[: answers[0]]):
        return None
    last = answers[-1]
    reply = prompter.reply(said[:last], said[last]["content"])
    ids = (*prompter.tokens(said[:last]), *reply[:-1])
    targets: list[tuple[int, int]] = []
    lost = 0
    for n in answers:
        before = prompter.tokens(said[:n])
        reply = prompter.reply(said[:n], said[n]["content"])
        if ids[: len(before) + len(reply) - 1] == (*before, *reply[:-1]):
            targets += enumerate(reply, start=len(before) - 1)
        else:
            lost += 1
    return Continued(key, ids, tuple(targets)), lost


def _answers(message: Mapping[str, str]) -> bool:
    return message["role"] == "assistant" and bool(message["content"].strip())


def _without_first(said: Said) -> Said:
    """Drop what the user says first, and what follows up to the user's next turn."""
    head = [m for m in said[:1] if m["role"] == "system"]
    rest = said[len(head) :]
    users = [n for n, m in enumerate(rest) if m["role"] == "user"]
    return [*head, *rest[users[1] :]] if len(users) > 1 else []
