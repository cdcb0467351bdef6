"""What eval-e2e asks: an answer to every question, saved as it comes, timed and paid for once."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from ragkit.config.answering import Answerer, OpenAIAnswerer
from ragkit.config.blocks import InputPath
from ragkit.data.files import write_jsonl
from ragkit.data.schema import Example, Passage
from ragkit.errors import EndpointError
from ragkit.log import logger, progress
from ragkit.models.cards import read_card
from ragkit.models.resolve import local_model
from ragkit.qa.cost import Totals, read_price, tokens_of
from ragkit.rag.answerers import Answer, Answers, build_answerer
from ragkit.stages.results import latencies, speed
from ragkit.stages.retrieval import EvaluationSource


def by_card(value: Any, default: str | None = None) -> Any:
    """Name the type of an answerer that names none, as the card in its model's folder says.

    default: the type where there is no card
    Raises:
        ValueError: the type is not that of the model.
    """
    if not isinstance(value, Mapping):
        return value
    given, model = value.get("type"), value.get("model")
    folder = local_model(model) if isinstance(model, str) and given != "openai" else None
    card = read_card(str(folder)) if folder else None
    if card is None:
        return value if given or default is None else {"type": default, **value}
    if given and given != card.answerer:
        raise ValueError(
            f"type: {given} does not fit {model}, which was trained by method {card.method}: "
            f"leave the type out, or give {card.answerer}"
        )
    return {**value, "type": card.answerer}


CardAnswerer = Annotated[Answerer, BeforeValidator(by_card)]
Given = Mapping[str, Sequence[Passage]]  # the passages that the answerer gets, of each question


class AnsweringSource(EvaluationSource):
    """Test examples, and what is needed to have them answered."""

    n_passages: int = Field(3, gt=0, description="passages that the answerer gets")
    top_k: int = Field(100, gt=0, description="passages retrieved; deeper, no rank is known")
    max_failed: float = Field(
        0.02, ge=0, le=1, description="share of the questions that may stay without an answer"
    )
    prices: InputPath | None = Field(
        None, description="YAML with US dollars per million tokens of the models, for the cost"
    )


@dataclass(frozen=True)
class Answered:
    """The answers of a run; a question without one failed.

    lost: replies without an answer, which may have been paid for
    speed: latency of single questions, throughput of this process
    """

    answers: Mapping[str, Answer]
    lost: Sequence[Answer]
    speed: Mapping[str, float | None]


def answer_all(
    config: Answerer,
    examples: Sequence[Example],
    given: Given,
    saved: Path,
    max_failed: float,
    timed: int,
) -> Answered:
    """Answer every question, saving as it goes; what an earlier process saved is not asked again.

    saved: JSONL of the answers
    max_failed: share of the questions that may stay without an answer
    timed: questions that a local answerer is asked one at a time
    Raises:
        EndpointError: more questions got no answer; the others are saved.
    """
    answers, lost = _load(saved)
    missing = [e for e in examples if e.id not in answers]
    remote = isinstance(config, OpenAIAnswerer)
    answerer = build_answerer(config) if missing or not remote else None
    start = time.perf_counter()
    if answerer and missing:
        with saved.open("a", encoding="utf-8") as f:
            replies = answerer.answer(missing, [given[e.id] for e in missing])
            for i, answer in progress(replies, "answering", len(missing), "questions"):
                if answer.failed:
                    lost.append(answer)
                else:
                    answers[missing[i].id] = answer
                f.write(json.dumps({"id": missing[i].id, **asdict(answer)}) + "\n")
                f.flush()
    seconds = time.perf_counter() - start
    _check_failed([e.id for e in examples if e.id not in answers], len(examples), max_failed)
    bought = [answers[e.id] for e in missing if e.id in answers]
    if answerer and not remote:
        alone = latencies(lambda e: _ask(answerer, e, given[e.id]), examples, timed)
    else:
        alone = [answer.latency_ms for answer in answers.values()]
    tokens = sum(tokens_of(answer.usage or {})[1] for answer in bought)
    rate = round(tokens / seconds, 3) if tokens else None
    return Answered(answers, lost, {**speed(alone, len(bought), seconds), "tokens_per_s": rate})


def cost_of(config: Answerer, answered: Answered, prices: Path | None) -> dict[str, Any] | None:
    """Return what answers cost, for metrics.json; None where no server was asked."""
    if not isinstance(config, OpenAIAnswerer):
        return None
    totals = Totals()
    for answer in (*answered.answers.values(), *answered.lost):
        totals.add(answer.usage or {}, answer.latency_ms / 1000)
    price = read_price(prices, config.model)
    dollars = price and price.of(totals.prompt_tokens, totals.completion_tokens)
    return {
        "requests": totals.requests,
        "prompt_tokens": totals.prompt_tokens,
        "completion_tokens": totals.completion_tokens,
        "dollars": dollars,
    }


def _ask(answerer: Answers, example: Example, passages: Sequence[Passage]) -> None:
    list(answerer.answer([example], [passages]))


def _check_failed(failed: Sequence[str], count: int, most: float) -> None:
    if not failed:
        return
    said = f"{len(failed)} of {count} questions got no answer ({', '.join(failed[:5])})"
    if len(failed) > most * count:
        raise EndpointError(
            f"{said}, more than max_failed ({most:g}) allows; the others are saved: the same "
            "command asks only for the missing ones"
        )
    logger.warning("%s; they are in no score of answers, and counted", said)


def _load(path: Path) -> tuple[dict[str, Answer], list[Answer]]:
    """Read what an interrupted run saved: answers, and replies without one.

    A line cut short is asked again.
    """
    if not path.exists():
        return {}, []
    found: dict[str, Answer] = {}
    lost = []
    for line in path.read_text(encoding="utf-8").split("\n"):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        question = record.pop("id")
        answer = Answer(**{**record, "passage_ids": tuple(record["passage_ids"])})
        if answer.failed:
            lost.append((question, answer))
        else:
            found[question] = answer
    write_jsonl(path, ({"id": i, **asdict(a)} for i, a in (*found.items(), *lost)))
    return found, [answer for _, answer in lost]
