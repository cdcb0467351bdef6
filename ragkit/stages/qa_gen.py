"""`ragkit qa-gen`: passages or documents into training, dev and test questions with answers."""

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator
from rich.console import RenderableType
from rich.markdown import Markdown

from ragkit.config.blocks import Block, BuyingConfig, Chunking, DocumentSource, InputPath
from ragkit.config.teaching import AnswerTeacher, Filters, HeuristicTeacher, ModelTeacher, Teacher
from ragkit.data.corpus import CorpusFile
from ragkit.data.files import (
    atomic_write,
    read_examples,
    read_json,
    read_passages,
    read_text,
    sha256_file,
    write_examples,
    write_json,
    write_jsonl,
    write_passages,
    write_record,
)
from ragkit.data.minhash import group_near_duplicates
from ragkit.data.schema import Example
from ragkit.errors import DataError
from ragkit.log import logger
from ragkit.qa.asking import Office
from ragkit.qa.card import Samples, Tally, data_card
from ragkit.qa.cost import Budget
from ragkit.qa.filters import FirstFilters, Sieve
from ragkit.qa.forecast import forecast
from ragkit.qa.generation import ORDER, Generation
from ragkit.qa.plan import Plan
from ragkit.qa.prompts import READING, UNANSWERABLE, Prompts, read_examples_to_show
from ragkit.qa.review import Corrections, read_review, write_review
from ragkit.qa.splits import document_groups, split_documents
from ragkit.qa.teachers import build_teacher
from ragkit.runs import Run, default_path
from ragkit.stages.chunk import cut, read_source

_JOURNAL = "journal.jsonl"
_NO_STYLES = ("answer", "critic", "instructions", READING, UNANSWERABLE)
_REVIEWED = ("test", "dev")  # what a measurement rests on


class Splits(Block):
    """Shares of the documents that are kept from training."""

    dev: float = Field(0.1, ge=0, le=0.5, description="for choosing the best checkpoint")
    test: float = Field(0.1, ge=0, le=0.5, description="for the final measurement")
    by: Literal["document", "group"] = Field(
        "document", description="group: documents that share many passages stay together"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.dev + self.test >= 1:
            raise ValueError("dev and test together leave no documents for training")
        return self


class Reading(Block):
    """Reading-comprehension texts for generator training, from the training documents."""

    by: Literal["patterns", "teacher"] = Field(
        "patterns", description="exercises mined from the text, or written by the teacher"
    )
    n: int = Field(3, gt=0, description="exercises a passage, at most")


class Config(DocumentSource, BuyingConfig):
    """Configuration of `qa-gen`."""

    chunk: Chunking | None = Field(
        None, description="how to cut long texts; unset: rows are passages"
    )
    near_duplicate: float = Field(
        0.8, gt=0, le=1, description="common share of two passages of which only one is asked about"
    )
    teacher: Teacher = Field(
        HeuristicTeacher(type="heuristic"), description="who writes the questions"
    )
    answers: AnswerTeacher | None = Field(
        None, description="who answers them in a second pass; unset: the teacher has answered"
    )
    critic: AnswerTeacher | None = Field(
        None, description="who judges training and dev questions; best another model"
    )
    styles: list[str] = Field(
        ["factoid", "how-to", "keyword"],
        min_length=1,
        description="kinds of questions: factoid, how-to, keyword, comparison, multi-passage, "
        "conversation, or templates of your own",
    )
    unanswerable: float = Field(
        0.1, ge=0, lt=0.5, description="share of questions without an answer, asked of models"
    )
    turns: int = Field(3, gt=1, description="questions in a conversation")
    language: str = Field("", description="in which to write; empty: that of the passage")
    prompts: InputPath | None = Field(
        None, description="folder with templates of your own, <style>.txt"
    )
    show: InputPath | None = Field(
        None, description="JSONL of {passage, question, answer, style?} shown to the teacher"
    )
    limit: int | None = Field(None, gt=0, description="ask about so many passages only")
    max_silent: float = Field(
        0.02, ge=0, le=1, description="share of requests that may fail; more stops the run"
    )
    splits: Splits = Splits()
    held_out: list[InputPath] = Field(
        [], description="example files whose questions must not leak into training"
    )
    filters: Filters = Filters()
    reading: Reading | None = Field(
        None, description="also write reading.jsonl, chats for generator training"
    )
    review: bool = Field(
        False, description="write test and dev questions to review.csv, and read it when it changes"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        rules = isinstance(self.teacher, HeuristicTeacher)
        for key in ("styles", "turns", "language", "prompts", "show", "unanswerable"):
            if rules and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(
                    f"{key}: goes with a teacher that is a model; the heuristic one has rules"
                )
        if twice := [style for style, n in Counter(self.styles).items() if n > 1]:
            raise ValueError(f"styles: {twice[0]} is named twice")
        if taken := [style for style in self.styles if style in _NO_STYLES]:
            raise ValueError(f"styles: {taken[0]} is a template of another use, and no style")
        if rules and self.reading and self.reading.by == "teacher":
            raise ValueError("reading.by: teacher needs a teacher that is a model")
        return self


def run(config: Config, run: Run) -> None:
    """Ask the teacher, filter, split; write corpus.jsonl, the splits and the data card."""
    with run.timed("corpus"):
        corpus, work = _prepare(config, run.path, config.journal or run / _JOURNAL, run)
    with work.office.accounted(run / "costs.json"):
        _generate(config, run, corpus, work)


def _generate(config: Config, run: Run, corpus: CorpusFile, work: Generation) -> None:
    with run.timed("asking"):
        work.teacher.ask(work.plan.requests)
    with run.timed("filters"), atomic_write(run / "rejected.jsonl") as rejected:
        sieve = Sieve(lambda record: write_record(rejected, record))
        kept = work.filtered(sieve)
    corrections = _corrections(config, run, work, kept)
    tallies, samples = _write_splits(config, run, work, kept, corrections)
    sieve.counts["dropped by a person"] = len(corrections.dropped)
    sieve.counts["added by a person"] = sum(map(len, corrections.added.values()))
    sieve.counts["kept"] = sum(t.questions for t in tallies.values())
    if config.reading:
        chats = work.reading_chats(config.reading.by, config.reading.n, config.seed)
        logger.info("%d reading texts", write_jsonl(run / "reading.jsonl", chats))
    write_json(run / "funnel.json", sieve.to_json())
    with atomic_write(run / "DATA_CARD.md") as f:
        title = (
            f"{len(corpus):,} passages of {len(work.split_of):,} documents; questions by the "
            f"{config.teacher.type} teacher."
        )
        notes = _notes(config, work, sieve, corrections)
        funnel, costs = sieve.to_json(), work.office.totals()
        f.write(data_card(title, corpus, tallies, funnel, costs, notes, samples.drawn))
    shutil.rmtree(work.folder)
    logger.info("%s", ", ".join(f"{t.questions} {name}" for name, t in tallies.items()))
    if not tallies["train"].questions:
        raise DataError(_why_nothing(sieve))


def show(path: Path) -> RenderableType:
    """Show the data card."""
    return Markdown(read_text(path / "DATA_CARD.md"))


def estimate(config: Config) -> Iterator[str]:
    """Yield what asking the models may come to, before the first request."""
    asked = (config.teacher, config.answers, config.critic)
    if not any(isinstance(teacher, ModelTeacher) for teacher in asked):
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = config.journal or (config.output or default_path("qa-gen", config)) / _JOURNAL
        journal = path if path.exists() else folder / _JOURNAL
        corpus, work = _prepare(config, folder, journal, Run(folder, done=False))
        requests = sum(1 for _ in work.plan.requests())
        yield f"{len(corpus):,} passages, {requests:,} requests"
        by_teacher = config.reading and config.reading.by == "teacher"
        yield from forecast(work, config.reading.n if config.reading and by_teacher else 0)


def reopen(config: Config, path: Path) -> bool:
    """Return whether a finished run has to be gone through again: its review was corrected."""
    review = path / "review.csv"
    if not review.exists():
        return config.review
    return bool(read_json(path / "review.json")["sha256"] != sha256_file(review))


def _prepare(
    config: Config, folder: Path, journal: Path, run: Run
) -> tuple[CorpusFile, Generation]:
    """Write the corpus, and decide who is asked what and which split it is for.

    What may be wrong with the configuration is told before the corpus is read: a run
    that has written nothing may be started again with another one.
    """
    rules = isinstance(config.teacher, HeuristicTeacher)
    shown = read_examples_to_show(config.show) if config.show else {}
    prompts = Prompts(config.prompts, config.language, config.turns, shown)
    prompts.check(_templates(config))
    budget = Budget(config.max_cost, config.max_requests)
    office = Office(journal, budget, config.max_silent, config.prices)
    teacher = build_teacher(config.teacher, prompts, office, config.seed)
    answers = office.answers("answers", config.answers) if config.answers else None
    critic = office.answers("critic", config.critic) if config.critic else None
    held_out = (e.question for path in config.held_out for e in read_examples(path))
    # rules write in the passage's own words
    filters = config.filters.model_copy(update={"language": False} if rules else {})
    first = FirstFilters(filters, held_out, config.language)
    write_passages(folder / "corpus.jsonl", cut(read_source(config, run), config.chunk))
    corpus = CorpusFile(folder / "corpus.jsonl")
    groups = group_near_duplicates(read_passages(corpus.path), config.near_duplicate)
    write_jsonl(folder / "near-duplicates.jsonl", ({"ids": ids} for ids in groups))
    (folder / ".work").mkdir(exist_ok=True)
    split_of = _splits(config, corpus)
    plan = Plan(
        passages=lambda: read_passages(corpus.path),
        styles=["heuristic"] if rules else config.styles,
        n=getattr(config.teacher, "n", 1),
        unanswerable=0.0 if rules else config.unanswerable,
        limit=config.limit,
        left_out={i for ids in groups for i in ids[1:]},
        seed=config.seed,
    )
    if all(split_of[p.source] != "train" for p in plan.asked()):
        raise DataError(
            "no passage that would be asked about is for training; "
            "change limit, the shares of splits, or seed"
        )
    return corpus, Generation(
        plan=plan,
        teacher=teacher,
        corpus=corpus,
        split_of=split_of,
        prompts=prompts,
        office=office,
        filters=filters,
        first=first,
        folder=folder / ".work",
        answers=answers,
        critic=critic,
    )


def _templates(config: Config) -> list[str]:
    """Return the templates in use, so that a mistake in any is told before the first request."""
    asked = not isinstance(config.teacher, HeuristicTeacher)
    reading = asked and config.reading and config.reading.by == "teacher"
    return [
        *([*config.styles, UNANSWERABLE] if asked else []),
        *([READING] if reading else []),
        *(["answer"] if config.answers else []),
        *(["critic"] if config.critic else []),
    ]


def _splits(config: Config, corpus: CorpusFile) -> dict[str, str]:
    splits, sizes, together = (
        config.splits,
        Counter(p.source for p in read_passages(corpus.path)),
        None,
    )
    if splits.by == "group":
        alike = group_near_duplicates(
            read_passages(corpus.path), config.near_duplicate, figures_tell=False
        )
        together = document_groups(sizes, ([corpus[i].source for i in ids] for ids in alike))
    return split_documents(sizes, splits.dev, splits.test, config.seed, together)


def _corrections(config: Config, run: Run, work: Generation, kept: Path) -> Corrections:
    """Read what a person has corrected; write the file for it where there is none."""
    path = run / "review.csv"
    if not config.review and not path.exists():
        return Corrections()
    examples = ((split, e) for split in _REVIEWED for e in work.examples(kept, split))
    if path.exists():
        found = read_review(path, (e for _, e in examples), work.corpus, work.split_of)
        logger.info("%s: %s", path, found.line)
    else:
        found, count = Corrections(), write_review(path, examples, work.corpus)
        logger.info("%s: %d questions to correct; then run the same command again", path, count)
    write_json(run / "review.json", {"sha256": sha256_file(path)})
    return found


def _write_splits(
    config: Config, run: Run, work: Generation, kept: Path, corrections: Corrections
) -> tuple[dict[str, Tally], Samples]:
    tallies = {name: Tally() for name in reversed(ORDER)}
    samples = Samples(config.seed)

    def counted(name: str) -> Iterator[Example]:
        for example in corrections.apply(name, work.examples(kept, name)):
            tallies[name].add(example)
            samples.add(example)
            yield example

    for name, tally in tallies.items():
        path = run / f"{name}.jsonl"
        write_examples(path, counted(name))
        if not tally.questions:
            path.unlink()
            if config.splits.model_dump().get(name):
                found = sum(split == name for split in work.split_of.values())
                why = f"no question about its {found:,} documents was kept" if found else \
                    "too few documents for its share"  # fmt: skip
                logger.warning("no %s.jsonl: %s", name, why)
    return tallies, samples


def _why_nothing(sieve: Sieve) -> str:
    reasons = {name: sieve.counts[name] for name in ("unreadable answers", *Sieve.REASONS)}
    most = max(reasons, key=lambda name: reasons[name])
    why = f" (most often: {most}, {reasons[most]:,})" if reasons[most] else ""
    return f"no training question was kept{why}; see rejected.jsonl and funnel.json"


def _notes(config: Config, work: Generation, sieve: Sieve, corrections: Corrections) -> list[str]:
    second = " and a second answer" if config.answers else ""
    notes = [
        f"No document is in two splits. Test questions were held to form, language{second} alone, "
        "dev questions not to the round trip."
    ]
    if doubles := len(work.plan.left_out):
        notes.append(f"{doubles:,} near-duplicates of other passages are not asked about.")
    if silent := sieve.counts["requests without answer"]:
        of = f"{sieve.counts['requests']:,} requests"
        notes.append(f"{silent:,} of {of} have no answer of the teacher.")
    if config.held_out:
        names = ", ".join(path.name for path in config.held_out)
        notes.append(f"Training questions too close to one of {names} were left out.")
    if (work.folder.parent / "review.csv").exists():
        some = corrections.dropped or corrections.changed or corrections.added
        read = f"Corrected by a person: {corrections.line}."
        notes.append(read if some else "No person has corrected test and dev questions yet.")
    return notes
