"""`ragkit judge`: a model judges the answers of a finished eval-e2e run."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator
from rich.console import RenderableType

from ragkit.config.blocks import BuyingConfig, Endpoint, InputPath
from ragkit.config.judging import Judge as JudgeConfig
from ragkit.data.files import read_json, sha256_text, write_json, write_jsonl
from ragkit.errors import ConfigError
from ragkit.evaluation.agreement import against_people
from ragkit.evaluation.judging import (
    Case,
    Correct,
    Criterion,
    Faithful,
    Preferred,
    Scale,
)
from ragkit.log import logger
from ragkit.qa.asking import Office
from ragkit.qa.cost import Budget
from ragkit.qa.judges import (
    Docket,
    Judge,
    Verdicts,
    hear,
    make_docket,
    read_instructions,
    try_out,
)
from ragkit.runs import Run, default_path
from ragkit.stages.cases import make_cases, read_labels
from ragkit.stages.evaluated import Evaluated, read_evaluated
from ragkit.stages.judgements import account, lines, metrics, predictions, shown

_JOURNAL = "journal.jsonl"
_NOT_DRAWN_Z = 3.0  # standard errors from which on labels are no random draw


class Config(BuyingConfig):
    """Configuration of `judge`."""

    runs: list[InputPath] = Field(
        min_length=1,
        max_length=2,
        description="run directory of the eval-e2e to judge; a second: the baseline of `preferred`",
    )
    judge: JudgeConfig = Field(description="the model that judges; best not the one that answered")
    criteria: list[Literal["correct", "faithful", "preferred"]] = Field(
        [], description="empty: correct, and preferred where there is a baseline"
    )
    scale: Scale = Field(
        "verdict", description="of correct: right or wrong, or rubric: 0, 0.5 (partly right), 1"
    )
    corpus: InputPath | None = Field(
        None, description="JSONL of passages, for faithful; unset: that of the judged run"
    )
    human: InputPath | None = Field(
        None, description="JSONL of {id, correct: 0, 0.5 or 1}, people's labels of a random subset"
    )
    prompts: InputPath | None = Field(
        None, description="folder with instructions of your own: correct-verdict.txt, ..."
    )
    controls: int = Field(
        20, ge=2, description="planted answers of known verdict, half right, that are asked first"
    )
    control_accuracy: float = Field(
        0.8, ge=0, le=1, description="share of the right and of the wrong ones that it must tell"
    )
    max_failed: float = Field(
        0.02, ge=0, le=1, description="share of judgements that may fail; more stops the run"
    )
    replicates: int = Field(0, ge=0, description="times that a sample is asked again, for noise")
    replicate_questions: int = Field(50, gt=0, description="questions in that sample")

    @model_validator(mode="after")
    def _fill_in_criteria(self) -> "Config":
        paired = len(self.runs) == 2
        if not self.criteria:
            found = ["correct", "preferred"] if paired else ["correct"]
            object.__setattr__(self, "criteria", found)
        if len(set(self.criteria)) < len(self.criteria):
            raise ValueError("criteria: one is named twice")
        if ("preferred" in self.criteria) is not paired:
            raise ValueError(
                "criteria: preferred needs a second run, the baseline, and a baseline is for it "
                f"alone; there are {', '.join(self.criteria)} and {len(self.runs)} run(s)"
            )
        for key, criterion in (("corpus", "faithful"), ("scale", "correct")):
            default = type(self).model_fields[key].default
            if getattr(self, key) != default and criterion not in self.criteria:
                raise ValueError(f"{key}: goes with {criterion}, which is not among the criteria")
        if self.human and "correct" not in self.criteria:
            raise ValueError("human: people's labels are of `correct`, which is not a criterion")
        return self

    @model_validator(mode="after")
    def _find_corpus(self) -> "Config":
        account = self.runs[0] / "run.json"
        if self.corpus or "faithful" not in self.criteria or not account.exists():
            return self
        named = read_json(account)["config"].get("corpus")
        if not (named and Path(named).exists()):
            raise ValueError(f"corpus: {named}, of {self.runs[0]}, is not there; name where it is")
        object.__setattr__(self, "corpus", Path(named))
        return self


def run(config: Config, run: Run) -> None:
    """Judge; write predictions.jsonl with the scores, judgements.jsonl and metrics.json."""
    judged, cases = _read(config)
    labels = read_labels(config.human, judged.records) if config.human else {}
    office = _office(config, config.journal or run / _JOURNAL)
    judge = _judge(config, office)
    dockets = _dockets(config, cases)
    with office.accounted(run / "costs.json"), run.timed("judging"):
        tried = [try_out(judge, docket, config.control_accuracy) for docket in dockets]
        verdicts = [
            hear(judge, docket, trial, config.max_failed)
            for docket, trial in zip(dockets, tried, strict=True)
        ]
    part = _part(config, judge, verdicts, len(cases))
    sheet = {v.docket.criterion.name: v.scores for v in verdicts}
    documents = {case.id: case.document for case in cases}
    if labels:
        settled = next(d.settled for d in dockets if d.criterion.name == "correct")
        part["human"] = against_people(sheet["correct"], labels, settled, documents, config.seed)
        _warn_of_choice(part["human"]["ppi"]["drawn_z"])
    marks = {name: found["mark"] for name, found in part["criteria"].items()}
    write_jsonl(run / "judgements.jsonl", (line for v in verdicts for line in lines(v)))
    write_jsonl(run / "predictions.jsonl", predictions(judged, verdicts, marks))
    write_json(run / "metrics.json", metrics(judged, sheet, documents, part, config.seed))


def show(path: Path) -> RenderableType:
    """Show the judge's metrics, and how far it can be trusted."""
    return shown(path)


def estimate(config: Config) -> Iterator[str]:
    """Yield what judging may come to, before the first request."""
    with tempfile.TemporaryDirectory() as name:
        path = config.journal or (config.output or default_path("judge", config)) / _JOURNAL
        judge = _judge(config, _office(config, path if path.exists() else Path(name) / _JOURNAL))
        _, cases = _read(config)
        for docket in _dockets(config, cases):
            found = judge.estimate(docket.criterion, docket.everything)
            yield (
                f"{docket.criterion.name}: {len(docket.asked):,} answers, {len(docket.settled):,} "
                f"settled without the judge, {len(docket.controls)} planted"
            )
            yield judge.desk.describe(found)


def _read(config: Config) -> tuple[Evaluated, list[Case]]:
    """Read the judged run, and the cases that it and the baseline make.

    Raises:
        ConfigError: the run is a judge's own.
    """
    judged = read_evaluated(config.runs[0])
    if "judge" in judged.metrics:
        raise ConfigError(f"runs: {judged.path} is a judged run; name the eval-e2e run itself")
    baseline = read_evaluated(config.runs[1]) if len(config.runs) == 2 else None
    corpus = config.corpus if "faithful" in config.criteria else None
    return judged, make_cases(judged, corpus, baseline)


def _office(config: Config, journal: Path) -> Office:
    # silence and replies that cannot be read are one rate, which `hear` holds to max_failed
    return Office(
        journal, Budget(config.max_cost, config.max_requests), max_silent=1.0, prices=config.prices
    )


def _criteria(config: Config) -> list[Criterion]:
    made: dict[str, Criterion] = {
        "correct": Correct(config.scale),
        "faithful": Faithful(),
        "preferred": Preferred(),
    }
    return [made[name] for name in config.criteria]


def _judge(config: Config, office: Office) -> Judge:
    criteria = _criteria(config)
    names = [f"{c.template}.txt" for c in criteria]
    if config.prompts and not any((config.prompts / name).exists() for name in names):
        raise ConfigError(f"prompts: {config.prompts} has none of {', '.join(names)} in it")
    instructions = {c.name: read_instructions(c, config.prompts) for c in criteria}
    return Judge(office.open("judge", config.judge), instructions)


def _dockets(config: Config, cases: Sequence[Case]) -> list[Docket]:
    sample = config.replicate_questions, config.replicates
    return [
        make_docket(criterion, cases, config.controls, *sample, config.seed)
        for criterion in _criteria(config)
    ]


def _server(config: Config) -> str:
    if isinstance(config.judge, Endpoint):
        return config.judge.base_url or "OpenAI"
    return "local, by transformers"


def _part(
    config: Config, judge: Judge, verdicts: Sequence[Verdicts], questions: int
) -> dict[str, Any]:
    """Return the judge's part of metrics.json."""
    used = judge.desk.used
    criteria: dict[str, dict[str, Any]] = {}
    for found in verdicts:
        criterion = found.docket.criterion
        criteria[criterion.name] = {
            "mark": _mark(config, judge, criterion),
            "prompt_sha256": judge.prompt_sha256(criterion),
            **({"scale": config.scale} if criterion.name == "correct" else {}),
            **account(found, questions),
        }
    return {
        "model": config.judge.model,
        "type": config.judge.type,
        "server": _server(config),
        "temperature": config.judge.temperature,
        "criteria": criteria,
        "human": None,
        "cost": {
            "requests": used.requests,
            "prompt_tokens": used.prompt_tokens,
            "completion_tokens": used.completion_tokens,
            "dollars": judge.desk.dollars(used.prompt_tokens, used.completion_tokens),
        },
    }


def _mark(config: Config, judge: Judge, criterion: Criterion) -> str:
    """Return what is equal where judgements can be compared: model, prompt and how it is asked."""
    asked, prompt = config.judge, judge.prompt_sha256(criterion)
    return sha256_text(asked.model, _server(config), str(asked.temperature), prompt)[:12]


def _warn_of_choice(z: float | None) -> None:
    if z is not None and abs(z) > _NOT_DRAWN_Z:
        logger.warning(
            "human: the judge scores the labelled answers %.1f standard errors %s the others: they "
            "do not look like a random draw, and then no mean from them holds for all",
            abs(z), "below" if z > 0 else "above",
        )  # fmt: skip
