"""What train-generator does alike for every method: the loop, dev questions, and what is kept."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragkit.log import logger
from ragkit.models.cards import Card, write_card
from ragkit.runs import Run
from ragkit.stages.generator_data import Asked, Chats
from ragkit.training.fitting import BEST, Model, Objective, fit
from ragkit.training.measuring import Trained
from ragkit.training.mixture import Mixture, Source
from ragkit.training.watching import Dev

if TYPE_CHECKING:
    from ragkit.stages.train_generator import Config

# what of the configuration decides the weights, beside data, model and loop
_DECIDING = {
    "method", "prompt", "cite", "max_length", "max_answer_tokens", "lora", "packing", "pretrain",
    "selection",
}  # fmt: skip


def made_from(config: "Config", model: str, parts: Sequence[Asked | Chats]) -> dict[str, Any]:
    """Return what decides the weights; `model`: a hash of the one that training begins with."""
    settings = config.model_dump(mode="json", include=_DECIDING)
    settings["passages"] = config.passages.model_dump(mode="json", exclude={"cache", "retriever"})
    return {"model": model, "data": [p.fingerprint() for p in parts], "settings": settings}


def train(
    config: "Config",
    run: Run,
    load: Callable[[], tuple[Model, Objective]],
    sources: Sequence[Source],
    made: Mapping[str, Any],
    dev: Dev | None,
) -> Trained:
    """Train what `load` returns on sources; leave its weights where `keep_model` finds them."""
    mixture = Mixture(sources, config.seed)
    if len(sources) > 1:
        logger.info("%s", mixture.account())
    with run.timed("training"):
        return fit(
            load,
            mixture,
            run.path,
            loop=config.loop,
            made_from=made,
            score=dev,
            metric=config.selection.metric,
            seed=config.seed,
        )


def watched(
    config: "Config",
    run: Run,
    part: Asked | None,
    answer: Callable[..., Sequence[tuple[str, bool]]],
    items: Sequence[Any],
) -> Dev | None:
    """Return what measures dev, or None where there is none.

    answer: what a model says to examples, `given` passages
    items: of dev, those that the loss is computed of
    """
    if part is None:
        return None
    asked = partial(answer, given=part.given)
    return Dev(part.examples, config.selection, asked, items, config.loop.batch, run.path)


def card_of(config: "Config", max_length: int, **more: Any) -> Card:
    """Return what a trained model says of itself; `more`: of its method alone."""
    return Card(
        method=config.method,
        max_length=max_length,
        max_answer_tokens=config.longest_answer,
        n_passages=None if config.passages.gold == "only" else config.passages.k,
        **more,
    )


def keep_model(run: Run, save: Callable[[Path], None], card: Card, has_adapters: bool) -> None:
    """Make model/ of what `save` writes; with adapters adapter/ of what training left."""
    temporary = run / ".model"
    shutil.rmtree(temporary, ignore_errors=True)
    save(temporary)
    write_card(temporary, card)
    if has_adapters:
        shutil.rmtree(run / "adapter", ignore_errors=True)
        shutil.copytree(run / BEST, run / "adapter")
    shutil.rmtree(run / "model", ignore_errors=True)
    temporary.rename(run / "model")
    shutil.rmtree(run / BEST)
