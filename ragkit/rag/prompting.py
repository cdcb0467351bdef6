"""From questions and passages to a generator's tokens, the same when it is trained and when asked.

Where a prompt is too long, the oldest turns of its conversation go until half the room is left to
the passages, and these lose their ends, the longest first; where they are too many for that, the
last go. The question and the instructions never do. What the prompt says is `ragkit.rag.prompts`'s
business. Special tokens are those that a template writes, never words of a text (`Verbatim`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from ragkit.config.answering import Prompting
from ragkit.data.schema import Example, Passage
from ragkit.errors import ModelError
from ragkit.models.pretrained import Traits
from ragkit.models.verbatim import BORDER, Verbatim
from ragkit.rag.prompts import chat, pair_text, plain_answer, plain_text

Chat = Sequence[Mapping[str, str]]
_NAMES = "max_answer_tokens in training, max_new_tokens in use"
_LEAST = 8  # tokens of a passage, below which none is shortened


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model reads before it answers.

    texts: the tokens of the one prompt; in fusion-in-decoder of each passage with the question
    shown: passages that are in there, with all of their text or its beginning: the first so many
    cut: passages that lost their end or are left out whole
    turns_cut: turns of the conversation that are left out
    """

    texts: tuple[tuple[int, ...], ...]
    shown: int = 0
    cut: int = 0
    turns_cut: int = 0


@dataclass(frozen=True)
class Prompter:
    """Writes prompts and answers as the tokens of one model.

    ends: tokens that end an answer, the first of them where a template has none of its own
    decoder: the model goes on from its prompt; else it has an encoder that reads it
    fused: each passage is read alone, with the question (fusion-in-decoder)
    max_length: tokens of a prompt, of an encoder; with the answer's, of a decoder
    max_answer_tokens: room that a decoder's prompt leaves
    """

    tokenizer: PreTrainedTokenizerBase
    ends: Sequence[int]
    decoder: bool
    max_length: int
    max_answer_tokens: int
    prompt: Prompting = field(default_factory=Prompting)
    cite: bool = False
    fused: bool = False

    @classmethod
    def of(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        traits: Traits,
        max_length: int,
        max_answer_tokens: int,
        prompt: Prompting,
        cite: bool,
        fused: bool = False,
    ) -> Self:
        """Return what writes the prompts of a model, by its traits.

        Raises:
            ModelError: lengths that the model cannot take, or that leave no room for a prompt.
        """
        made = cls(
            tokenizer, traits.ends, traits.decoder, max_length, max_answer_tokens,
            prompt, cite, fused,
        )  # fmt: skip
        answer = f"an answer of {max_answer_tokens} tokens ({_NAMES})"
        if max_length > traits.positions:
            raise ModelError(
                f"max_length: {max_length} is more than the {traits.positions} tokens that "
                f"{traits.name} has positions for"
            )
        if max_answer_tokens > traits.answer_positions:
            raise ModelError(
                f"{answer} is longer than the {traits.answer_positions} tokens that "
                f"{traits.name} has positions for"
            )
        if made.room <= 0:
            raise ModelError(
                f"{answer} leaves no room for a prompt in max_length: {max_length} "
                f"({traits.name} has {traits.positions} positions)"
            )
        return made

    @property
    def room(self) -> int:
        """Tokens that a prompt may have."""
        return self.max_length - (self.max_answer_tokens if self.decoder else 0)

    @property
    def uses_template(self) -> bool:
        """Whether the tokenizer's chat template writes the prompt."""
        return bool(self.tokenizer.chat_template) and self.prompt.template == "auto"

    def write(self, example: Example, passages: Sequence[Passage]) -> Prompt | None:
        """Return the prompt; None where not even the question has room."""
        groups = [[p] for p in passages] or [[]] if self.fused else [list(passages)]
        parts = [self._fitted(example, group) for group in groups]
        whole = [part for part in parts if part is not None]
        if len(whole) < len(parts):
            return None
        return Prompt(
            tuple(part.texts[0] for part in whole),
            sum(part.shown for part in whole),
            sum(part.cut for part in whole),
            max(part.turns_cut for part in whole),
        )

    def answer(self, example: Example, answer: str) -> tuple[int, ...]:
        """Return the tokens that follow a prompt, one token of end after them.

        Those of the answer do not depend on the passages.
        """
        return self.reply(self._chat(example, [], 0), answer)

    def reply(self, asked: Chat, answer: str) -> tuple[int, ...]:
        """Return the tokens that follow a chat, one token of end after them."""
        ids = self._tail(asked, answer)
        end = next((i for i, token in enumerate(ids) if token in self.ends), len(ids))
        return (*ids[:end], ids[end] if end < len(ids) else self.ends[0])

    def tokens(self, asked: Chat) -> tuple[int, ...]:
        """Return the tokens of a chat up to its answer."""
        return self._ids(self.render(asked))

    def _ids(self, text: str) -> tuple[int, ...]:
        # templates write their own special tokens
        ids = self._verbatim.read(text, add_special_tokens=not self.uses_template)
        if self.decoder and not self.uses_template and ids and ids[-1] in self.ends:
            ids = ids[:-1]  # a tokenizer that ends every text: this one goes on
        return tuple(ids)

    def render(self, asked: Chat, answered: str | None = None) -> str:
        """Return a chat as text, up to its answer; with the answer where one is given.

        What is said has its special tokens hidden (`Verbatim`).
        """
        said = [
            {**message, "content": self._verbatim.hide(message["content"])} for message in asked
        ]
        answer = None if answered is None else self._verbatim.hide(answered)
        if not self.uses_template:
            text = plain_text(_bordered(said), self.prompt.plain)
            return text if answer is None else text + plain_answer(answer, self.prompt.plain)
        said += [] if answer is None else [{"role": "assistant", "content": answer}]
        problem: TemplateError | None = None
        # Gemma's and Mistral's older templates know no instructions of their own
        for written in (said, _without_system(said)):
            try:
                return self._apply(written, answer is None)
            except TemplateError as error:
                problem = problem or error
        raise ModelError(
            f"the chat template cannot write this chat: {problem}; prompt.template: plain writes "
            "prompts without it"
        ) from problem

    def _apply(self, said: list[dict[str, str]], asking: bool) -> str:
        options: dict[str, Any] = dict(self.prompt.template_options)
        return str(
            self.tokenizer.apply_chat_template(
                said, tokenize=False, add_generation_prompt=asking, **options
            )
        )

    @cached_property
    def _verbatim(self) -> Verbatim:
        return Verbatim(self.tokenizer, self.ends)

    def _tail(self, asked: Chat, answer: str) -> Sequence[int]:
        """Return the tokens of an answer as they stand behind the chat, and what closes it.

        Alone they can be others: SentencePiece puts a space before each text.
        """
        said = self._verbatim.hide(answer)
        if not self.decoder:
            return self._alone(said)
        before, whole = self.render(asked), self.render(asked, answer)
        # templates that write a finished turn otherwise than one to come
        tail = whole.removeprefix(before) if whole.startswith(before) else said
        ids, together = self._ids(before), self._ids(before + tail)
        return together[len(ids) :] if together[: len(ids)] == ids else self._alone(tail)

    def _alone(self, text: str) -> Sequence[int]:
        return tuple(self._verbatim.read(text, add_special_tokens=False))

    def _chat(self, example: Example, texts: Sequence[str], turns_cut: int) -> Chat:
        history = example.history[turns_cut:]
        return chat(example, texts, history, self.cite, self.prompt)

    def _read(self, example: Example, texts: Sequence[str], turns_cut: int = 0) -> tuple[int, ...]:
        if not self.fused:
            return self.tokens(self._chat(example, texts, turns_cut))
        text = pair_text(example, "".join(texts), example.history[turns_cut:])
        return tuple(self._verbatim.read(self._verbatim.hide(text)))

    def _fitted(self, example: Example, passages: Sequence[Passage]) -> Prompt | None:
        texts = [p.rendered for p in passages]
        ids = self._read(example, texts)
        if len(ids) <= self.room:
            return Prompt((ids,), len(texts))
        turns = self._turns_cut(example)
        spans = [self._verbatim.places(text) for text in texts]
        sizes, shown = [len(s) for s in spans], texts
        ids = self._read(example, texts, turns)
        around = len(ids) - len(self._read(example, [], turns)) - sum(sizes)
        while len(ids) > self.room and sizes:
            sizes = _shortened(sizes, len(ids) - self.room, around // len(texts))
            shown = [_beginning(t, s, n) for t, s, n in zip(texts, spans, sizes, strict=False)]
            ids = self._read(example, shown, turns)
        whole = sum(a == b for a, b in zip(shown, texts, strict=False))
        prompt = Prompt((ids,), len(shown), len(texts) - whole, turns)
        return prompt if len(ids) <= self.room else None

    def _turns_cut(self, example: Example) -> int:
        """Return how many turns have to go so that the rest leaves half the room to passages.

        What is left begins with the user: templates take no other.
        """
        history = example.history
        starts = [n for n, turn in enumerate(history) if n and turn.role == "user"]
        for turns in (0, *starts):
            if 2 * len(self._read(example, [], turns)) <= self.room:
                return turns
        return len(history)


def _shortened(sizes: Sequence[int], excess: int, around: int) -> list[int]:
    """Return sizes that are `excess` less in all: none above the greatest length that does it.

    Where that would be below `_LEAST`, the last sizes go first.

    around: tokens that go with each of them
    """
    kept = list(sizes)
    while kept and sum(max(size - _LEAST, 0) for size in kept) < excess:
        excess -= kept.pop() + around
    if not kept or excess <= 0:
        return kept
    lengths = range(max(kept) - 1, _LEAST - 1, -1)
    length = next(n for n in lengths if sum(max(size - n, 0) for size in kept) >= excess)
    return [min(size, length) for size in kept]


def _beginning(text: str, spans: Sequence[tuple[int, int]], most: int) -> str:
    """Return so many tokens of a text, all of it where it has no more."""
    if len(spans) <= most:
        return text
    return text[: spans[most - 1][1]]


def _without_system(said: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Put the instructions before what the user says first, where that comes next."""
    if [message["role"] for message in said[:2]] != ["system", "user"]:
        return list(said)
    first, asked, *rest = said
    return [{**asked, "content": f"{first['content']}\n\n{asked['content']}"}, *rest]


def _bordered(said: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Keep past answers apart from the separator that follows: `.` and `\\n\\n` may be one token.

    They are then the tokens that were said, and a chat's next prompt goes on from them.
    """
    return [{**m, "content": m["content"] + BORDER * (m["role"] == "assistant")} for m in said]
