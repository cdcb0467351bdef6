"""The data card: what was generated, what was kept, and samples to read, on one page."""

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ragkit.data.schema import Example, Passage

_SAMPLES = 10


@dataclass
class Tally:
    """What the card says of the examples of one split."""

    questions: int = 0
    unanswerable: int = 0
    follow_ups: int = 0
    styles: Counter[str] = field(default_factory=Counter)
    passages: set[int] = field(default_factory=set)  # hashes
    documents: set[int] = field(default_factory=set)

    def add(self, example: Example) -> None:
        """Count an example."""
        self.questions += 1
        self.unanswerable += not example.answerable
        self.follow_ups += bool(example.history)
        self.styles[str(example.meta.get("style", ""))] += 1
        self.passages.update(map(hash, example.positive_ids))
        self.documents.add(hash(example.meta.get("doc_id", "")))


class Samples:
    """Ten of many examples, each with the same chance (reservoir sampling; Vitter, 1985)."""

    def __init__(self, seed: int) -> None:
        self.drawn: list[Example] = []
        self._seen, self._random = 0, random.Random(seed)

    def add(self, example: Example) -> None:
        """Show an example, which may be drawn."""
        self._seen += 1
        if len(self.drawn) < _SAMPLES:
            self.drawn.append(example)
        elif (place := self._random.randrange(self._seen)) < _SAMPLES:
            self.drawn[place] = example


def data_card(
    title: str,
    corpus: Mapping[str, Passage],
    splits: Mapping[str, Tally],
    funnel: Mapping[str, int],
    costs: Mapping[str, Mapping[str, Any]],
    notes: Sequence[str],
    samples: Iterable[Example],
) -> str:
    """Return the card as Markdown."""
    lines = ["# Data card", "", title, "", *_split_table(splits), ""]
    lines += [f"- {note}" for note in notes]
    lines += ["", "## What became of what was asked", "", "| | number |", "|---|---|"]
    lines += [f"| {name} | {count:,} |" for name, count in funnel.items() if count]
    if costs:
        lines += ["", "## What it cost", "", *_cost_table(costs)]
    drawn = list(samples)
    lines += ["", f"## {len(drawn)} random samples", ""]
    for example in drawn:
        lines += _sample(example, corpus)
    return "\n".join(lines).rstrip() + "\n"


def _split_table(splits: Mapping[str, Tally]) -> list[str]:
    lines = [
        "| split | questions | unanswerable | follow-ups | passages asked about | documents "
        "| styles |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, tally in splits.items():
        styles = ", ".join(f"{style} {n:,}" for style, n in tally.styles.most_common())
        lines.append(
            f"| {name} | {tally.questions:,} | {tally.unanswerable:,} | {tally.follow_ups:,} "
            f"| {len(tally.passages):,} | {len(tally.documents):,} | {styles} |"
        )
    return lines


def _cost_table(costs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = [
        "| | model | answers | tokens in | tokens out | US dollars |",
        "|---|---|---|---|---|---|",
    ]
    for role, cost in costs.items():
        dollars = "unknown" if cost["cost_usd"] is None else f"{cost['cost_usd']:,.4f}"
        lines.append(
            f"| {role} | {cost['model']} | {cost['answers']:,} | {cost['prompt_tokens']:,} "
            f"| {cost['completion_tokens']:,} | {dollars} |"
        )
    return lines


def _sample(example: Example, corpus: Mapping[str, Passage]) -> list[str]:
    about = str(example.meta.get("about", "")) or example.positive_ids[0]
    passage = corpus[about]
    turns = [f"{turn.role}: {turn.content}  " for turn in example.history]
    end = "…" if len(passage.text) > 200 else ""
    text = " ".join(passage.text[:200].split())
    return [
        *turns,
        f"**{example.question}**  ",
        f"{example.answers[0] if example.answers else '(no answer)'}  ",
        f"*{passage.title or passage.id}*: {text}{end}",
        "",
    ]
