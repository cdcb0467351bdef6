"""`ragkit report`: evaluated runs as one self-contained HTML page."""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import jinja2
from pydantic import BeforeValidator, Field, field_validator
from rich.console import Group, RenderableType

import ragkit
from ragkit.config.blocks import InputPath, StageConfig
from ragkit.data.files import atomic_write, read_json, write_json
from ragkit.errors import DataError
from ragkit.evaluation.compare import leading
from ragkit.runs import Run
from ragkit.stages import report_accounts as accounts
from ragkit.stages import report_questions as questions
from ragkit.stages import report_sections as sections
from ragkit.stages import report_words as words
from ragkit.stages.evaluated import Systems
from ragkit.stages.report_runs import Reported, Texts, evaluations, expanded, read_runs


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


class Config(StageConfig):
    """Configuration of `report`."""

    runs: list[InputPath] = Field(
        min_length=1,
        description="run directories; a pipeline's stands for its steps, a comparison's for what "
        "it compared as well",
    )
    baseline: Annotated[list[str], BeforeValidator(_as_list)] = Field(
        [],
        description="names of the systems that differences are taken from, of each kind the first "
        "that is there; unset: that of a comparison among the runs, else the first run",
    )
    title: str = Field("Evaluation report", min_length=1, description="stands above the headline")
    regressions: int = Field(20, ge=0, description="questions shown at which a system lost most")
    questions: int = Field(
        1000, ge=0, description="questions in the searchable table; those that changed most"
    )

    @field_validator("runs")
    @classmethod
    def _expand(cls, runs: list[Path]) -> list[Path]:
        return list(dict.fromkeys(step for path in runs for step in expanded(path)))


def run(config: Config, run: Run) -> None:
    """Read the runs, work out the sections that there is data for; write report.html."""
    runs = read_runs(config.runs)
    evaluated = evaluations(runs)
    texts = Texts(runs)
    with run.timed("comparing"):
        kinds = [_kind(config, runs, of, texts) for of in evaluated.values()]
        kinds += [
            _kind_without_records(config, runs, kind, table, texts)
            for kind, table in sections.from_comparisons(runs, evaluated).items()
        ]
    now = datetime.now(UTC)
    page = {
        "title": config.title,
        "made": f"{now.day} {now:%B %Y}",
        "version": ragkit.__version__,
        "kinds": kinds,
        "gates": accounts.gates(runs),
        "attributions": accounts.attributions(runs),
        "learning": accounts.learning(runs),
        "funnels": accounts.funnels(runs),
        "speed": accounts.speed(runs),
        "costs": accounts.costs(runs),
        "leaks": accounts.leaks(runs, {n: k["metric"] for k in kinds for n in k["systems"]}),
        "provenance": accounts.provenance(runs),
    }
    headlines = _headlines(page)
    if not headlines:
        made = ", ".join(sorted({r.command for r in runs}))
        raise DataError(
            f"{', '.join(map(str, config.runs))}: nothing to report in runs of {made}; a report is "
            "made of runs of eval-retriever, eval-e2e, judge, compare, attribute, train-retriever, "
            "train-generator and qa-gen"
        )
    with atomic_write(run / "report.html") as f:
        f.write(render({**page, "headlines": headlines}))
    write_json(run / "report.json", {"headlines": [asdict(said) for said in headlines]})


def show(path: Path) -> RenderableType:
    """Say the headlines, and where the page is."""
    told = read_json(path / "report.json")["headlines"]
    file = path / "report.html"
    said = [f"{of['statement']}\n  {of['evidence']}".rstrip() + "\n" for of in told]
    return Group(*said, f"{file} ({file.stat().st_size / 1e6:.1f} MB, opens in any browser)")


def _headlines(page: Mapping[str, Any]) -> list[words.Headline]:
    """Return what is said first: of evaluations and wrong answers, else of what there is."""
    said = [kind["said"] for kind in page["kinds"]]
    said += [words.of_attribution(a) for a in page["attributions"]]
    if not said:
        said = [words.of_training(training) for training in page["learning"]]
        said += [words.of_funnel(funnel) for funnel in page["funnels"]]
    return said


def render(page: Mapping[str, Any]) -> str:
    """Return the page, with a policy that forbids every request and every other script or style."""
    loader = jinja2.PackageLoader("ragkit.stages")
    env = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    env.filters |= {
        "metric": words.metric_name,
        "signed": words.signed,
        "interval": words.interval,
        "number": words.number,
        "p_value": words.p_value,
    }
    style, script = (_source(loader, env, name) for name in ("report.css", "report.js"))
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    template = env.get_template("report.html")
    return template.render(**page, style=style, script=script, policy=policy).strip() + "\n"


def _source(loader: jinja2.PackageLoader, env: jinja2.Environment, name: str) -> str:
    return loader.get_source(env, name)[0]


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _baseline(config: Config, runs: list[Reported], names: list[str], kind: str) -> str:
    """Return the system that differences are taken from: named, a comparison's, or the first.

    Raises:
        DataError: a name that no run has.
    """
    known = [r.name for r in runs]
    if unknown := [name for name in config.baseline if name not in known]:
        raise DataError(f"baseline: no run {unknown[0]!r}; there are {', '.join(known)}")
    compared = [
        table["baseline"]
        for r in runs
        for of, table in (r.json("comparison.json") or {}).items()
        if of == kind
    ]
    return next((name for name in [*config.baseline, *compared] if name in names), names[0])


def _kind(config: Config, runs: list[Reported], evaluated: Systems, texts: Texts) -> dict[str, Any]:
    """Return all sections about one kind of evaluation.

    Raises:
        DataError: the systems have no metric in common, or no question.
    """
    names = list(evaluated.paths)
    baseline = _baseline(config, runs, names, evaluated.kind)
    table = sections.comparison(evaluated, baseline, config.seed)
    if not table["metrics"]:
        raise DataError(
            f"{', '.join(names)}: no metric that all have scores of; make a report of each"
        )
    rankings = sections.read_rankings(evaluated)
    ceilings = evaluated.ceilings
    leader = leading(table["differences"], table["metrics"][0], baseline, ceilings)
    pair = list(dict.fromkeys([baseline, leader]))
    kind = _kind_of_table(evaluated.kind, table, leader, ceilings, rankings.ranks)
    answers = evaluated.kind == "answers"
    return kind | {
        "curves": None if answers else sections.recall_curves(rankings, names, kind["roles"]),
        "ranks": None if answers else sections.rank_bars(rankings, pair),
        "scores": [] if answers else sections.score_panels(rankings, pair),
        "f1": sections.f1_bars(evaluated, pair) if answers else None,
        "lost": questions.regressions(evaluated, table, leader, texts, config.regressions),
        "no_texts": texts.missing,
        "questions": questions.table_of(evaluated, table, leader, rankings.ranks, config.questions),
    }


def _kind_without_records(
    config: Config, runs: list[Reported], kind: str, table: Mapping[str, Any], texts: Texts
) -> dict[str, Any]:
    """Return the sections that a comparison alone gives: its table, and the questions that lost."""
    ceilings, metric = table.get("ceilings", []), table["metrics"][0]
    leader = leading(table["differences"], metric, table["baseline"], ceilings)
    return _kind_of_table(kind, table, leader, ceilings, {}) | {
        "curves": None,
        "ranks": None,
        "scores": [],
        "f1": None,
        "lost": questions.recorded_losses(runs, table, leader, texts, config.regressions),
        "no_texts": texts.missing or ["no run in this report names its corpus"],
        "questions": None,
    }


def _kind_of_table(
    kind: str,
    table: Mapping[str, Any],
    leader: str,
    ceilings: list[str],
    ranks: Mapping[str, Mapping[str, int | None]],
) -> dict[str, Any]:
    metric, baseline = table["metrics"][0], table["baseline"]
    roles = {name: "ceiling" if name in ceilings else "" for name in table["systems"]}
    roles |= {baseline: "baseline"} if table["differences"] else {}
    roles[leader] = "leader"
    gains = {name: row[metric] for name, row in table["differences"].items()}
    return {
        "kind": kind,
        "title": sections.TITLES[kind],
        "said": sections.headline(kind, table, leader, ceilings, ranks),
        "metric": metric,
        "shown": table["shown"],
        "unscored": table["unscored"],
        "baseline": baseline,
        "leader": leader,
        "roles": roles,
        "systems": table["systems"],
        "ladder": sections.ladder(table, roles),
        "differences": sections.differences(gains, roles),
        "slices": sections.by_slice(table, leader),
    }
