"""The data card: what was generated, what was kept, and samples to read, on one page."""

import random
from collections.abc import Mapping, Sequence

from ragkit.data.schema import Example, Passage

_SAMPLES = 10


def data_card(
    teacher: str,
    corpus: Mapping[str, Passage],
    splits: Mapping[str, Sequence[Example]],
    funnel: Mapping[str, int],
    notes: Sequence[str],
    seed: int,
) -> str:
    """Return the card as Markdown."""
    documents = len({p.source for p in corpus.values()})
    lines = [
        "# Data card",
        "",
        f"{len(corpus):,} passages of {documents:,} documents; questions by {teacher}.",
        "",
        "| split | questions | passages asked about | documents |",
        "|---|---|---|---|",
    ]
    for name, examples in splits.items():
        asked = {i for e in examples for i in e.positive_ids}
        lines.append(
            f"| {name} | {len(examples):,} | {len(asked):,} | "
            f"{len({corpus[i].source for i in asked}):,} |"
        )
    lines += ["", "No document is in two splits."]
    lines += [f"- {note}" for note in notes]
    lines += ["", "## What became of the generated pairs", "", "| | pairs |", "|---|---|"]
    lines += [f"| {name} | {count:,} |" for name, count in funnel.items()]
    lines += ["", f"## {_SAMPLES} random samples", ""]
    pool = [e for examples in splits.values() for e in examples]
    for example in random.Random(seed).sample(pool, min(_SAMPLES, len(pool))):
        passage = corpus[example.positive_ids[0]]
        lines += [
            f"**{example.question}**  ",
            f"{example.answers[0] if example.answers else '(no answer)'}  ",
            f"*{passage.title or passage.id}*: {passage.text[:200]!r}…",
            "",
        ]
    return "\n".join(lines).rstrip() + "\n"
