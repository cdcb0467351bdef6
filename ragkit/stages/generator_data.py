"""What train-generator learns from: examples with the passages that they are given, and chats."""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ragkit.config.blocks import Dense, Fused, Retriever, beside
from ragkit.data.files import (
    read_corpus,
    read_examples,
    read_json,
    sha256_file,
    sha256_texts,
)
from ragkit.data.formats import openchatkit
from ragkit.data.formats.dataset import Options, first_record
from ragkit.data.schema import Example, Passage, Turn
from ragkit.errors import ConfigError
from ragkit.log import logger
from ragkit.retrieval.rankings import Rankings
from ragkit.retrieval.searchers import needs_dev
from ragkit.runs import Run
from ragkit.stages.sources import bad_lines, read_sources
from ragkit.training.given import Given, depth, gold_found

if TYPE_CHECKING:
    from ragkit.stages.train_generator import Config


@dataclass(frozen=True)
class Asked:
    """Examples of one file, with what gives them passages."""

    examples: list[Example]
    given: Given
    weight: float = 1.0
    where: str = ""

    def fingerprint(self) -> str:
        """Return a hash of the examples and of every passage that they may be given."""
        ranked = self.given.ranked or {}
        named = {i for e in self.examples for i in (*e.positive_ids, *e.negative_ids)}
        named.update(i for e in self.examples for i in ranked.get(e.id, ()))
        # where nothing is retrieved distractors are drawn from all of the corpus, in its order
        of = sorted(named) if self.given.ranked else self.given.ids
        texts = (part for i in of for part in (i, self.given.corpus[i].rendered))
        rows = (json.dumps([e.to_json(), list(ranked.get(e.id, ()))]) for e in self.examples)
        return sha256_texts([*rows, *texts, str(self.weight)])


@dataclass(frozen=True)
class Chats:
    """Conversations of one file, by their ids."""

    chats: Mapping[str, Sequence[Turn]]
    where: str
    weight: float = 1.0

    def fingerprint(self) -> str:
        """Return a hash of all that is said."""
        said = (json.dumps([[t.role, t.content] for t in turns]) for turns in self.chats.values())
        return sha256_texts([*said, str(self.weight)])


@dataclass(frozen=True)
class Searched:
    """A corpus, and what finds passages in it; nothing where nothing is retrieved."""

    corpus: Mapping[str, Passage]
    rankings: Rankings | None

    def ask(
        self,
        config: "Config",
        run: Run,
        examples: list[Example],
        weight: float = 1.0,
        where: str = "",
    ) -> Asked:
        """Return examples with what gives them passages of this corpus."""
        ranked = None
        if self.rankings is not None:
            with run.timed("retrieval"):
                ranked = self.rankings.of(examples, depth(config.passages))
            if (share := gold_found(examples, ranked, config.passages.k)) is not None:
                logger.info(
                    "%s: a passage that answers is among the first %d of %.1f%% of %d questions",
                    where, config.passages.k, 100 * share, len(examples),
                )  # fmt: skip
        given = Given.of(examples, self.corpus, config.passages, ranked, config.seed)
        return Asked(examples, given, weight, where)


@dataclass(frozen=True)
class Parts:
    """All that is learned from, and the dev examples that choose."""

    asked: list[Asked]
    chats: list[Chats]
    dev: Asked | None


def read_parts(config: "Config", run: Run) -> Parts:
    """Read examples, mixture and dev, and find the passages of all questions.

    Raises:
        ConfigError: a retriever that would have to be chosen on dev.
        DataError: malformed files, or ones that do not go together.
    """
    examples, corpus = read_sources(config, run)
    main = _searched(config, run, corpus, config.corpus_path)
    asked = [main.ask(config, run, examples, config.weight, str(config.examples))]
    chats = []
    for part in config.mixture:
        if conversations := _read_chats(part.path, bad_lines(config, run)):
            chats.append(Chats(conversations, str(part.path), part.weight))
            continue
        theirs = main
        own = beside(part.path, "corpus.jsonl")
        if own and own.resolve() != config.corpus_path.resolve():
            theirs = _searched(config, run, read_corpus(own, bad_lines(config, run)), own)
        more = read_examples(part.path, theirs.corpus, bad_lines(config, run))
        logger.info("%s: %d examples, %d passages", part.path, len(more), len(theirs.corpus))
        asked.append(theirs.ask(config, run, more, part.weight, str(part.path)))
    dev = _dev_examples(config, run, corpus)
    watched = main.ask(config, run, dev, where=str(config.dev)) if dev else None
    return Parts(asked, chats, watched)


def _dev_examples(config: "Config", run: Run, corpus: Mapping[str, Passage]) -> list[Example]:
    """Read dev examples that can be measured on, as many as are asked for, drawn once."""
    if config.dev is None:
        return []
    examples = read_examples(config.dev, corpus, bad_lines(config, run))
    examples = [e for e in examples if e.answers or not e.answerable]
    if not examples:
        logger.warning(
            "%s: none of its questions has a reference answer: the last checkpoint is kept, not "
            "the best", config.dev,
        )  # fmt: skip
    most = config.selection.questions
    if len(examples) > most:
        chosen = set(random.Random(f"{config.seed}:dev").sample(range(len(examples)), most))
        examples = [e for i, e in enumerate(examples) if i in chosen]
    return examples


def _searched(config: "Config", run: Run, corpus: Mapping[str, Passage], path: Path) -> Searched:
    if config.passages.gold == "only":
        return Searched(corpus, None)
    retriever = config.passages.retriever
    if needs_dev(retriever):
        raise ConfigError(
            "passages.retriever.weight: auto is chosen on dev by an evaluation; give the number"
        )
    _compare_corpora(retriever, path)
    folder = config.passages.cache or run / "rankings"
    return Searched(corpus, Rankings(retriever, corpus, folder))


def _compare_corpora(retriever: Retriever, corpus: Path) -> None:
    """Warn of an encoder that was trained on another corpus than it is to search."""
    dense = retriever.dense if isinstance(retriever, Fused) else retriever
    if not isinstance(dense, Dense):
        return
    account = Path(dense.model) / "run.json"
    if not account.exists():
        return
    inputs = read_json(account).get("inputs", {})
    trained_on = inputs.get("corpus", {}).get("sha256")
    if trained_on and trained_on != sha256_file(corpus):
        logger.warning(
            "the retriever %s was trained on another corpus (%s) than %s",
            dense.model, inputs["corpus"].get("path"), corpus,
        )  # fmt: skip


def _read_chats(path: Path, skip_bad: Path | None) -> dict[str, tuple[Turn, ...]]:
    """Return the conversations of a file; none where it holds examples."""
    if openchatkit.looks_like(path):
        chats = openchatkit.read(path, Options(skip_bad=skip_bad)).chats
    elif "messages" in first_record(path):
        chats = openchatkit.read_chats(path, skip_bad)
    else:
        return {}
    found: dict[str, tuple[Turn, ...]] = {}
    for n, chat in enumerate(chats, start=1):
        key = chat.id or str(n)
        found[f"{key} ({n})" if key in found else key] = chat.messages
    return found
