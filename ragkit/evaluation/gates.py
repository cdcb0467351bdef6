"""Gates: what a change may cost at most, judged by the bounds of paired differences.

`recall@5 >= -0.01` holds where the whole 95% interval of the difference from the baseline is at or
above -0.01: not being worse must be shown, an interval that is merely wide does not pass.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from xml.etree import ElementTree

from ragkit.errors import DataError

_FORM = re.compile(
    r"(?:(?P<system>.+?)\s*:\s*)?(?P<metric>[^\s:<>=]+)\s*>=\s*"
    r"(?P<limit>[+-]?(?:\d+\.?\d*|\.\d+))"
)


@dataclass(frozen=True)
class Gate:
    """A limit for the difference of a metric from the baseline; system: None means every other."""

    metric: str
    limit: float
    system: str | None = None

    def __str__(self) -> str:
        who = f"{self.system}: " if self.system else ""
        return f"{who}{self.metric} >= {self.limit:g}"


@dataclass(frozen=True)
class Verdict:
    """What came of a gate for one system; bound: the lower end of its interval, if it has one."""

    gate: str
    system: str
    passed: bool
    bound: float | None
    said: str


def parse_gate(text: str) -> Gate:
    """Return the gate that a text like `ndcg@10 >= 0` or `tuned: recall@5 >= -0.01` means.

    Raises:
        ValueError: it means none.
    """
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise ValueError(
            f"{text!r} is no gate; one is [SYSTEM:] METRIC >= NUMBER, the least difference from "
            "the baseline (recall@5 >= -0.01)"
        )
    return Gate(found["metric"], float(found["limit"]), found["system"])


def judge(
    gates: Sequence[Gate], differences: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> list[Verdict]:
    """Judge every gate for the systems that it is about.

    differences: {system: {metric: {"mean", "ci95"}}} from the baseline, as `compare` returns them
    Raises:
        DataError: a gate is about a metric or a system that was not compared.
    """
    verdicts = []
    for gate in gates:
        metrics = {metric for row in differences.values() for metric in row}
        if gate.metric not in metrics:
            there = ", ".join(sorted(metrics)) or "no differences at all"
            raise DataError(f"gate {gate}: nothing is compared by {gate.metric}; there are {there}")
        about = [
            name
            for name, row in differences.items()
            if gate.metric in row and gate.system in (None, name)
        ]
        if not about:
            raise DataError(
                f"gate {gate}: {gate.system} was not compared by {gate.metric}; there are "
                f"{', '.join(name for name, row in differences.items() if gate.metric in row)}"
            )
        verdicts += [_verdict(gate, name, differences[name][gate.metric]) for name in about]
    return verdicts


def _verdict(gate: Gate, system: str, cell: Mapping[str, Any]) -> Verdict:
    mean, interval = cell["mean"], cell["ci95"]
    if interval is None:
        said = f"{mean:+.4f}, and no interval: one document cannot show a difference"
        return Verdict(str(gate), system, False, None, said)
    bound = interval[0]
    said = f"{mean:+.4f}, lower bound {bound:+.4f}"
    return Verdict(str(gate), system, bound >= gate.limit, bound, said)


def as_json(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Return verdicts as JSON objects."""
    return [asdict(verdict) for verdict in verdicts]


def as_junit(verdicts: Sequence[Verdict]) -> str:
    """Return verdicts as JUnit XML, a test case each, for the reports of CI systems."""
    failed = sum(not v.passed for v in verdicts)
    suite = ElementTree.Element(
        "testsuite", name="ragkit compare", tests=str(len(verdicts)), failures=str(failed)
    )
    for verdict in verdicts:
        case = ElementTree.SubElement(
            suite, "testcase", classname=f"ragkit.{verdict.system}", name=verdict.gate
        )
        if not verdict.passed:
            ElementTree.SubElement(case, "failure", message=verdict.said)
        else:
            ElementTree.SubElement(case, "system-out").text = verdict.said
    ElementTree.indent(suite)
    text: str = ElementTree.tostring(suite, encoding="unicode", xml_declaration=True)
    return f"{text}\n"
