"""From a configuration of train-generator to a trained model: data, loop, and what is kept."""

import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragkit.config.blocks import Columns
from ragkit.data.documents import read_documents
from ragkit.data.files import sha256_texts
from ragkit.data.schema import Passage
from ragkit.errors import ConfigError
from ragkit.models.adapters import merged
from ragkit.models.cards import Card
from ragkit.models.pretrained import load_language_model, saved_dtype
from ragkit.runs import Run
from ragkit.stages.generator_data import Asked, Chats, keep_model, read_parts
from ragkit.stages.generator_text import TextTask
from ragkit.training.conversations import chat_items
from ragkit.training.documents import document_items, whole_documents
from ragkit.training.fitting import BEST, fit
from ragkit.training.measuring import Trained
from ragkit.training.mixture import Mixture, Source
from ragkit.training.questions import Questions, usable
from ragkit.training.watching import Dev

if TYPE_CHECKING:
    from ragkit.stages.train_generator import Config

# what of the configuration decides the weights, beside data, model and loop
_DECIDING = {
    "method", "prompt", "cite", "max_length", "max_answer_tokens", "lora", "packing", "pretrain",
    "selection",
}  # fmt: skip


def train_text(config: "Config", run: Run) -> Trained:
    """Train what writes its answers; leave it in model/."""
    parts = read_parts(config, run)
    asked, chats = parts.asked, parts.chats
    task = TextTask(config)
    if not task.traits.decoder and (chats or config.pretrain):
        raise ConfigError(
            f"{config.model}: chats and raw documents are learned by decoders, and this reads by "
            "an encoder; leave them out of mixture and pretrain"
        )
    learned = [_learned(part, task) for part in asked]
    sources = [
        Source(len(q.examples), q.item, p.weight) for q, p in zip(learned, asked, strict=True)
    ]
    sources += [_source_of_chats(part, task) for part in chats]
    made_from = _made_from(config, task, [*asked, *chats])
    dev = _dev(config, run, task, parts.dev)
    with task.context:
        begun = _pretrain(config, run, task, asked[0].given.corpus, made_from)
        with run.timed("training"):
            trained = fit(
                partial(task.load, begun),
                Mixture(sources, config.seed),
                run.path,
                loop=config.loop,
                made_from=made_from,
                score=dev,
                metric=config.selection.metric,
                seed=config.seed,
            )
    if run.main:
        _keep(config, run, task)
    return trained


def _learned(part: Asked, task: TextTask) -> Questions:
    kept = usable(part.examples, part.given, task.prompter, task.config.longest_answer)
    return Questions(kept, part.given, task.prompter)


def _source_of_chats(part: Chats, task: TextTask) -> Source:
    items = chat_items(part.chats, task.prompter, part.where)
    return Source(len(items), lambda number, _: items[number], part.weight)


def _made_from(config: "Config", task: TextTask, parts: Sequence[Asked | Chats]) -> dict[str, Any]:
    settings = config.model_dump(mode="json", include=_DECIDING)
    settings["passages"] = config.passages.model_dump(mode="json", exclude={"cache", "retriever"})
    return {"model": task.hash, "data": [p.fingerprint() for p in parts], "settings": settings}


def _dev(config: "Config", run: Run, task: TextTask, part: Asked | None) -> Dev | None:
    """Return what measures dev, or None where there is none."""
    if part is None:
        return None
    questions = Questions(part.examples, part.given, task.prompter)
    items = [questions.dev_item(i) for i in range(len(part.examples))]
    return Dev(
        part.examples,
        config.selection,
        partial(task.answer, given=part.given),
        [item for item in items if item is not None],
        config.loop.batch,
        run.path,
    )


def _pretrain(
    config: "Config",
    run: Run,
    task: TextTask,
    corpus: Mapping[str, Passage],
    made_from: Mapping[str, Any],
) -> Path | None:
    """Have the model continue raw documents; return where that left it."""
    if config.pretrain is None:
        return None
    documents = _documents(config, run, corpus)
    length = min(config.pretrain.max_length, task.traits.positions)
    items = document_items(documents, task.tokenizer, task.traits.end, length)
    loop = config.loop.model_copy(
        update={
            "epochs": config.pretrain.epochs,
            "max_steps": None,
            "learning_rate": config.pretrain.learning_rate,
        }
    )
    with run.timed("pretraining"):
        fit(
            task.load,
            Mixture([Source(len(items), lambda number, _: items[number])], config.seed),
            run / "pretrain",
            loop=loop,
            made_from={**made_from, "data": sha256_texts(documents.values())},
            seed=config.seed,
        )
    return run / "pretrain" / BEST


def _documents(config: "Config", run: Run, corpus: Mapping[str, Passage]) -> dict[str, str]:
    assert config.pretrain is not None
    if config.pretrain.input is None:
        return whole_documents(corpus)
    found = read_documents(config.pretrain.input, Columns())
    return {
        f"{n}": f"{d.heading}\n\n{d.text}" if d.heading else d.text for n, d in enumerate(found)
    }


def _keep(config: "Config", run: Run, task: TextTask) -> None:
    """Make model/ of the weights that training left; with adapters adapter/, too."""
    remote = config.trust_remote_code
    dtype = saved_dtype(config.model, remote)

    def save(folder: Path) -> None:
        best = run / BEST
        if config.save == "adapter":
            shutil.copytree(best, folder)
        elif config.lora:
            base = load_language_model(config.model, dtype=dtype, trust_remote_code=remote)
            merged(base, best).save_pretrained(folder)
        else:
            load_language_model(str(best), dtype=dtype).save_pretrained(folder)
        task.tokenizer.save_pretrained(folder)

    keep_model(run, save, _card(config, task), config.lora is not None)


def _card(config: "Config", task: TextTask) -> Card:
    return Card(
        method=config.method,
        prompt=config.prompt.model_dump(mode="json"),
        cite=config.cite,
        max_length=task.prompter.max_length,
        max_answer_tokens=config.longest_answer,
        n_passages=None if config.passages.gold == "only" else config.passages.k,
    )
