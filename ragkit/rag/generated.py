"""Answers that a model writes: one that is loaded here, or one behind a server."""

import time
from collections.abc import Iterator, Mapping, Sequence

from ragkit.config.answering import HfAnswerer, OpenAIAnswerer, Prompting
from ragkit.data.schema import Example, Passage
from ragkit.errors import ModelError
from ragkit.log import logger
from ragkit.models.cards import Card, read_card
from ragkit.models.endpoint import Client
from ragkit.models.generator import Generator
from ragkit.models.replies import pieces_without_thought, without_thought
from ragkit.models.resolve import resolve_model
from ragkit.models.streaming import stream
from ragkit.rag.answerers import Answer
from ragkit.rag.prompting import Prompt, Prompter
from ragkit.rag.prompts import is_refusal, messages, without_citations

_THINK = "<think>"
USUAL_ANSWER = 128  # tokens


class HfAnswers:
    """A local generator, asked as it was trained."""

    def __init__(self, config: HfAnswerer) -> None:
        """Load the model; what the configuration does not say, its card does.

        Raises:
            ModelError: no such model, one of another kind, or a length that it cannot take.
        """
        card = read_card(resolve_model(config.model)) or Card("sft")
        if card.answerer != "hf":
            raise ModelError(
                f"{config.model}: its method is {card.method}; answerer.type: {card.answerer} "
                "asks such a model, not hf"
            )
        most = card.longest(config.max_new_tokens, USUAL_ANSWER)
        config = config.model_copy(update={"max_new_tokens": most})
        self.generator = Generator.load(config)
        tokenizer, its = self.generator.tokenizer, self.generator.traits
        self.prompter = Prompter.of(
            tokenizer, its, config.max_length or card.max_length or its.limit, most,
            prompt=config.prompt or Prompting(**card.prompt),
            cite=card.cite if config.cite is None else config.cite,
        )  # fmt: skip
        self.told = False  # that prompts were shortened

    def answer(
        self, examples: Sequence[Example], passages: Sequence[Sequence[Passage]]
    ) -> Iterator[tuple[int, Answer]]:
        """Generate an answer for each question; one that has no room for itself failed."""
        prompts = [self.prompter.write(e, p) for e, p in zip(examples, passages, strict=True)]
        self._tell(prompts)
        for i, prompt in enumerate(prompts):
            if prompt is None:
                yield i, Answer("", False, 0.0, failed=True)
        places = [i for i, prompt in enumerate(prompts) if prompt]
        ids = [prompt.texts[0] for prompt in prompts if prompt]
        start = time.perf_counter()
        for n, output in self.generator.generate_ids(ids):
            latency_ms = (time.perf_counter() - start) * 1000
            usage = {"prompt_tokens": output.prompt_tokens, "completion_tokens": output.tokens}
            text = f"{_THINK}{output.text}" if self._thinks(ids[n]) else output.text
            given = passages[places[n]]
            yield places[n], answer_of(text, given, self.prompter, latency_ms, usage)
            start = time.perf_counter()

    def stream(self, example: Example, passages: Sequence[Passage]) -> Iterator[str]:
        """Yield the pieces of an answer as they come, without thoughts.

        Raises:
            ModelError: the question has no room for itself.
        """
        prompt = self.prompter.write(example, passages)
        if prompt is None:
            raise ModelError(f"the question has no room for itself; {self._room()}")
        yield from pieces_without_thought(self._pieces(prompt.texts[0]))

    def _pieces(self, ids: Sequence[int]) -> Iterator[str]:
        if self._thinks(ids):
            yield _THINK
        yield from self.generator.stream(ids)

    def _thinks(self, ids: Sequence[int]) -> bool:
        """Return whether a prompt ends in the beginning of a thought, as some templates write."""
        return str(self.generator.tokenizer.decode(list(ids[-8:]))).rstrip().endswith(_THINK)

    def _tell(self, prompts: Sequence[Prompt | None]) -> None:
        """Say, once, how many prompts are not whole."""
        written = [prompt for prompt in prompts if prompt]
        cut, turns = (sum(bool(p.cut) for p in written), sum(bool(p.turns_cut) for p in written))
        without = len(prompts) - len(written)
        if self.told or not (cut or turns or without):
            return
        self.told = True
        logger.warning(
            "of %d prompts, %d lose the ends of passages, %d the oldest turns of their "
            "conversation, and %d have no room for the question and are not asked; %s",
            len(prompts), cut, turns, without, self._room(),
        )  # fmt: skip

    def _room(self) -> str:
        prompter = self.prompter
        answer = f" - {prompter.max_answer_tokens} of the answer" if prompter.decoder else ""
        return f"max_length: {prompter.max_length} tokens{answer} = {prompter.room} for a prompt"


class OpenAIAnswers:
    """A model behind an OpenAI-compatible server."""

    def __init__(self, config: OpenAIAnswerer) -> None:
        self.config, self.client = config, Client(config)

    def answer(
        self, examples: Sequence[Example], passages: Sequence[Sequence[Passage]]
    ) -> Iterator[tuple[int, Answer]]:
        """Ask for each question, `concurrency` at a time."""
        chats = [self._chat(e, found) for e, found in zip(examples, passages, strict=True)]
        for i, reply in self.client.ask_all(chats):
            latency_ms = reply.seconds * 1000
            yield i, answer_of(reply.text, passages[i], self.config, latency_ms, reply.usage)

    def stream(self, example: Example, passages: Sequence[Passage]) -> Iterator[str]:
        """Yield the pieces of an answer as they come, without thoughts."""
        yield from pieces_without_thought(stream(self.client, self._chat(example, passages)))

    def _chat(self, example: Example, passages: Sequence[Passage]) -> list[dict[str, str]]:
        return messages(example, passages, self.config.cite, self.config.prompt)


def answer_of(
    text: str,
    passages: Sequence[Passage],
    told: Prompter | OpenAIAnswerer,
    latency_ms: float = 0.0,
    usage: Mapping[str, int] | None = None,
) -> Answer:
    """Return what a text answers; one of thoughts alone failed, and so did a server's empty one."""
    said = without_thought(text).strip()
    if not said and (text or isinstance(told, OpenAIAnswerer)):
        return Answer("", False, latency_ms, usage=usage, failed=True)
    said, cited = without_citations(said, passages) if told.cite else (said, ())
    return Answer(said, is_refusal(said, told.prompt.refusal), latency_ms, cited, usage)
