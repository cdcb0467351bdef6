"""`ragkit report` on run directories: what is on the page, what is left out, what is refused."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ragkit.data.files import read_json, read_jsonl, write_json, write_jsonl
from ragkit.errors import DataError
from ragkit.stages.report_accounts import without_secrets

Report = Callable[..., Any]
BASE = [3, 4, None, 2, 8, 6, 3, 9, None, 5, 7, 4]
TUNED = [1, 1, 1, 1, 2, 1, 1, 1, 5, 1, 1, 12]


@pytest.fixture
def pair(runs: Any) -> list[Path]:
    """Two retrievers, of which the second is clearly better and worse on one question."""
    return [runs.retriever("base", BASE), runs.retriever("tuned", TUNED)]


def data(page: Any) -> Any:
    """Return the data of the table of questions."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.html)
    assert found is not None
    return json.loads(found[1])


def loud_addresses(html: str) -> list[str]:
    """Return what a browser would fetch: addresses in attributes and style sheets."""
    found = re.findall(r"""(?:src|href|srcset|action|data|poster)\s*=\s*["']?([^"'\s>]+)""", html)
    found += re.findall(r"url\(([^)]*)\)|@import\s+(\S+)", html)
    return [str(address) for address in found if not str(address).startswith("#")]


def test_the_headline_says_in_questions_what_is_best_by_how_much_and_how_surely(
    report: Report, pair: list[Path]
) -> None:
    page = report(*pair)
    # among the first five: base 2, 3, 3, 4, 4, 5; tuned all but the last
    said = "tuned finds a right passage among its first 5 results for 11 of 12 questions; base does"
    assert f"{said} for 6." in page.text
    assert "The gain is more than chance would give: nDCG@10 of tuned is 0.8" in page.text
    assert "Of 12 questions about 6 documents, 11 got better, 0 stayed the same, 1 got worse." in (
        page.text
    )
    told = read_json(page.path / "report.json")["headlines"]
    assert told[0]["statement"] == f"{said} for 6."


def test_what_the_interval_does_not_show_is_not_claimed(report: Report, runs: Any) -> None:
    page = report(runs.retriever("base", BASE), runs.retriever("other", [*BASE[1:], BASE[0]]))
    assert "is more than chance" not in page.text
    assert re.search(
        r"(not shown to find passages better than|Nothing here is above) base", page.text
    )
    assert "which includes 0" in page.text
    assert "four times in five" in page.text


def test_a_gain_that_is_shown_goes_before_a_larger_one_that_is_not(
    report: Report, runs: Any
) -> None:
    documents = range(20)  # of two questions each
    wild = [0.9 if i % 2 else 0.25 for i in documents for _ in range(2)]
    page = report(
        runs.answers("base", [0.5] * 40),
        runs.answers("wild", wild),
        runs.answers("steady", [0.55] * 40),
    )
    assert sum(wild) / 40 > 0.55
    assert "steady answers better than base: F1 0.550 against 0.500." in page.text


def test_a_gain_that_the_correction_takes_away_is_not_claimed(report: Report, runs: Any) -> None:
    # of 6 documents 6 gain the same: p is 2 / 2^6, and four times that for four systems
    others = [runs.answers(f"other-{i}", [0.5] * 12) for i in range(3)]
    tuned = runs.answers("tuned", [0.6] * 12)
    page = report(runs.answers("base", [0.5] * 12), tuned, *others)
    assert "tuned may answer better than base, but this test does not settle it." in page.text


def test_no_wrong_answer_is_said_too(report: Report, runs: Any) -> None:
    path = runs.account("why", "attribute")
    told = {"metric": "f1", "threshold": 0.5, "system": "a | b", "reasons": {}, "cells": {}}
    write_json(path / "attribution.json", told)
    write_jsonl(path / "attribution.jsonl", [])
    assert "No answer of a | b is wrong." in report(path).text


def test_one_system_is_reported_without_a_comparison(report: Report, pair: list[Path]) -> None:
    page = report(pair[1])
    assert "tuned finds a right passage among its first 5 results for 11 of 12" in page.text
    assert "no other system in this report to compare it with" in page.text
    assert "question by question" not in page.text
    assert "lost most" not in page.text


def test_one_question_has_no_interval(report: Report, runs: Any) -> None:
    page = report(runs.retriever("base", [3]), runs.retriever("tuned", [1]))
    assert "tuned is above base, on questions about a single document." in page.text
    assert "there is no interval" in page.text


def test_the_numbers_are_those_of_the_runs(report: Report, pair: list[Path]) -> None:
    page = report(*pair)
    histogram = re.search(r"Where the first right passage stands</h3>.*?</table>", page.html, re.S)
    assert histogram is not None
    rows = re.findall(
        r'<th scope="row">([^<]+)</th><td class="num">(\d+)</td>.*?<td class="num">(\d+)</td>',
        histogram[0], re.S,
    )  # fmt: skip
    assert rows == [
        ("1", "0", "9"), ("2", "1", "1"), ("3", "2", "0"), ("4–5", "3", "1"), ("6–10", "4", "0"),
        ("11–12", "0", "1"), ("not in the first 12", "2", "0"),
    ]  # fmt: skip
    row = next(r for r in data(page)[0]["rows"] if r["id"] == "q11")
    assert row["r"] == [4, 12]
    assert row["s"] == [0.4307, 0.0]
    assert row["in"] == [1]


def test_sections_without_data_are_absent(report: Report, runs: Any, pair: list[Path]) -> None:
    assert report(*pair).sections == ["retrieval", "questions", "provenance"]
    page = report(runs.answers("said", [0.1, 0.9, 1.0]), output=str(runs.folder / "answers"))
    assert page.sections == ["answers", "questions", "speed", "provenance"]


def test_every_kind_of_run_has_its_section(report: Report, runs: Any, pair: list[Path]) -> None:
    answers = [runs.answers("said", [0.1, 0.9, 1.0]), runs.answers("said-better", [0.2, 1.0, 1.0])]
    train = runs.account("train", "train-retriever")
    history = [{"loss": 2.0 / step, "step": step} for step in (1, 2, 3)]
    dev = [{"eval_ndcg@10": 0.5 + 0.1 * step, "step": step} for step in (0, 2)]
    write_jsonl(train / "history.jsonl", [*history, *dev])
    write_json(train / "metrics.json", {"metrics": {}, "best_step": 2})
    qa = runs.account("qa", "qa-gen")
    funnel = {"requests": 9, "generated": 8, "duplicate": 3, "leak": 0, "kept": 5}
    write_json(qa / "funnel.json", funnel)
    bought = {"model": "m", "answers": 48, "prompt_tokens": 1336, "completion_tokens": 144}
    write_json(qa / "costs.json", {"questions": {**bought, "cost_usd": None}})
    attribute = runs.account("why", "attribute")
    cell = {"f1": {"mean": 0.5, "ci95": [0.4, 0.6], "n": 3, "clusters": 2}}
    write_json(
        attribute / "attribution.json",
        {"metric": "f1", "threshold": 0.5, "system": "said", "differences": {},
         "reasons": {"not retrieved": 2, "refused wrongly": 1},
         "cells": {"base | base | retrieved": cell, "tuned | tuned | gold": cell}},
    )  # fmt: skip
    write_jsonl(
        attribute / "attribution.jsonl",
        [{"id": "q0", "question": "Why?", "reason": "not retrieved", "answer": "", "references": [],
          "positive_ids": ["p0"]}],
    )  # fmt: skip
    page = report(*pair, *answers, train, qa, attribute)
    assert page.sections == [
        "retrieval", "answers", "attribution", "questions", "training", "funnel", "speed", "cost",
        "provenance",
    ]  # fmt: skip
    assert "2 of 3 wrong answers of said have one reason: not retrieved." in page.text
    assert "generated 8 duplicate 3 kept 5" in page.text
    assert "questions (m) 48 1,336 144 unknown" in page.text
    assert "nDCG@10 on dev" in page.text
    assert re.findall(r'<a href="#([\w-]+)"', page.html) == page.sections


def test_speed_cost_and_leaks_are_taken_from_the_metrics(report: Report, runs: Any) -> None:
    path = runs.answers("said", [0.1, 0.9, 1.0])
    parts = {"ms_p50": 12.345, "ms_p95": 20.0, "questions_per_s": 80.0}
    cell = {"mean": 0.625, "ci95": [0.5, 0.75], "n": 2, "clusters": 2}
    write_json(
        path / "metrics.json",
        {"speed": {"retrieval": parts, "answering": {**parts, "tokens_per_s": 1234.5}},
         "cost": {"requests": 3, "prompt_tokens": 2100, "completion_tokens": 9, "dollars": 0.5},
         "leakage": {"near_questions": 7, "near_passages": 1, "without": {"f1": cell}}},
    )  # fmt: skip
    text = report(path).text
    assert "said retrieval 12.3 20 80 — said answering 12.3 20 80 1,234" in text
    assert "said answers 3 2,100 9 0.5000" in text
    assert "said 7 1 0.625 0.500 to 0.750" in text


def test_a_judged_run_tells_the_speed_of_its_evaluation_where_that_is_not_there(
    report: Report, runs: Any
) -> None:
    evaluated = runs.answers("system", [0.1, 0.9])
    judged = runs.answers("judged", [0.1, 0.9], runs=[str(evaluated)])
    account = read_json(judged / "run.json")
    write_json(judged / "run.json", {**account, "command": "judge"})
    assert "judged answering 20 30 50" in report(judged).text
    both = report(evaluated, judged, output=str(runs.folder / "both")).text
    assert "system answering 20 30 50" in both and "judged answering" not in both


def test_a_system_given_the_right_passages_is_a_ceiling_and_not_the_best(
    report: Report, runs: Any
) -> None:
    f1 = [0.1, 0.2, 0.3, 0.2] * 5
    page = report(
        runs.answers("base", f1),
        runs.answers("gold", [0.9] * 20, passages="gold"),
        runs.answers("tuned", [score + 0.2 for score in f1]),
    )
    assert "tuned answers better than base: F1 0.400 against 0.200." in page.text
    assert "Given the right passages, gold reaches F1 0.900." in page.text


def test_questions_that_a_system_failed_to_answer_are_left_out_and_counted(
    report: Report, runs: Any
) -> None:
    page = report(runs.answers("a", [0.1, 0.2, -1, 0.4]), runs.answers("b", [0.1, 0.3, 0.4, 0.5]))
    assert "1 question without a score from every system left out" in page.text
    assert "3 questions about 2 documents" in page.text
    assert "(no answer)" in data(page)[0]["rows"][-1]["a"][0]


def test_everything_is_escaped_also_in_the_data(report: Report, pair: list[Path]) -> None:
    page = report(*pair, title="A <script>title</script>")
    # the page's own two scripts, and nothing that was read
    assert len(re.findall(r"<script\b", page.html)) == page.html.count("</script>") == 2
    assert "<b>bold" not in page.html and "<!--" not in page.html
    assert "&lt;script&gt;document.title=" in page.html
    assert (
        '<script>document.title="broken"</script> & <b>bold</b> <!-- 额定电压'
        in (data(page)[0]["rows"][0]["q"])
    )


def test_nothing_is_fetched_and_the_policy_forbids_it(report: Report, pair: list[Path]) -> None:
    page = report(*pair)
    assert loud_addresses(page.html) == []
    assert "http://" not in page.html and "https://" not in page.html
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page.html)
    assert policy is not None
    assert policy[1].startswith("default-src &#39;none&#39;; style-src &#39;sha256-")
    assert "unsafe" not in policy[1]
    assert not re.search(r"""\s(style|on\w+)=["']""", page.html)  # the policy would drop them


def test_passages_of_questions_that_lost_are_shown_side_by_side(
    report: Report, pair: list[Path]
) -> None:
    page = report(*pair)
    lost = re.search(r'<details class="loss".*?</details>', page.html, re.S)
    assert lost is not None
    text = " ".join(re.sub(r"<[^>]+>", " ", lost[0]).split())
    assert "What is number 11?" in text and "0.43 → 0.00" in text
    assert "A right passage is at 4." in text and "No right passage in the first 10." in text
    assert text.count("p11 right") == 1  # what was to be found; neither has it in its first three
    assert "12 ends &lt;/script&gt;" in text


def test_without_the_corpus_passages_are_ids_and_the_page_says_so(
    report: Report, runs: Any, pair: list[Path]
) -> None:
    runs.corpus.unlink()
    page = report(*pair)
    assert f"Passages are shown by id only: the corpus {runs.corpus} is not there" in page.text
    assert "额定电压" in page.text  # of the question
    assert "12 ends" not in page.text


def test_a_corpus_that_was_changed_is_not_shown(
    report: Report, runs: Any, pair: list[Path]
) -> None:
    write_jsonl(runs.corpus, [{"id": "p11", "text": "something else"}])
    page = report(*pair)
    assert "has changed since base was made" in page.text
    assert "something else" not in page.text


def test_the_table_is_bounded_and_keeps_what_changed_most(report: Report, pair: list[Path]) -> None:
    found = data(report(*pair, questions=3))[0]
    assert found["all"] == 12
    changes = [abs(row["s"][1] - row["s"][0]) for row in found["rows"]]
    assert len(changes) == 3 and changes == sorted(changes, reverse=True)
    assert found["rows"][0]["id"] == "q2" and changes[0] == 1.0  # from nowhere to the first


def test_long_texts_are_cut(report: Report, runs: Any) -> None:
    path = runs.answers("said", [0.5, 1.0])
    records = read_jsonl(path / "predictions.jsonl")
    write_jsonl(path / "predictions.jsonl", [{**r, "answer": "x" * 100_000} for r in records])
    page = report(path)
    assert len(page.html) < 100_000
    assert data(page)[0]["rows"][0]["a"] == ["x" * 400 + "…"]


def test_a_comparison_brings_its_baseline_labels_gates_and_runs(
    report: Report, runs: Any, pair: list[Path], stage: Callable[..., Path]
) -> None:
    compared = stage(
        "compare",
        runs=[str(pair[1]), str(pair[0])],
        labels=["after", "before"],
        baseline="before",
        gates=["recall@5 >= 0", "recall@1 >= 0.9"],
        output=str(runs.folder / "compared"),
    )
    page = report(compared)
    assert "after finds a right passage" in page.text
    assert "Difference from before, question by question" in page.text
    assert "Holds after: recall@5 >= 0 (" in page.text
    assert "Does not hold after: recall@1 >= 0.9 (" in page.text
    assert "−" in page.text and page.sections == ["retrieval", "questions", "provenance"]
    assert "Difference from after" in report(
        compared, baseline="after", output=str(runs.folder / "r2")
    ).text  # fmt: skip


def test_a_comparison_whose_runs_are_gone_is_reported_from_its_tables(
    report: Report, runs: Any, pair: list[Path], stage: Callable[..., Path]
) -> None:
    output = str(runs.folder / "compared")
    compared = stage("compare", runs=[str(p) for p in pair], output=output)
    pair[0].rename(runs.folder / "moved")
    page = report(compared)
    assert "tuned ranks the right passages higher than base: nDCG@10" in page.text
    assert page.sections == ["retrieval", "provenance"]
    assert "Where tuned lost most against base" in page.text
    assert "no run in this report names its corpus" in page.text


def test_a_pipeline_stands_for_its_steps_that_were_begun(
    report: Report, runs: Any, pair: list[Path]
) -> None:
    ids = [("base", "eval-retriever"), ("tuned", "eval-retriever"), ("later", "compare")]
    steps = [{"id": i, "run": command, "with": {}} for i, command in ids]
    folder = runs.account("", "run", status="failed", steps=steps)
    page = report(folder, output=str(folder / "report"))
    assert "tuned finds a right passage" in page.text
    config = read_json(page.path / "run.json")["config"]
    assert config["runs"] == [str(path) for path in pair]
    # made again inside the pipeline's directory, it is all done already
    assert report(folder, output=str(folder / "report")).html == page.html


def test_a_judged_run_stands_for_the_run_that_it_judged(report: Report, runs: Any) -> None:
    plain, judged = runs.answers("said", [0.1, 0.5]), runs.answers("judged", [0.1, 0.5])
    baseline = runs.answers("baseline", [0.1, 0.4])
    records = read_jsonl(judged / "predictions.jsonl")
    scores = [{**r["scores"], "correct": 1.0, "preferred": 0.5} for r in records]
    marked = [{**r, "scores": s} for r, s in zip(records, scores, strict=True)]
    write_jsonl(judged / "predictions.jsonl", marked)
    account = read_json(judged / "run.json")
    config = {**account["config"], "runs": [str(plain), str(baseline)]}
    write_json(judged / "run.json", {**account, "command": "judge", "config": config})
    page = report(baseline, plain, judged)
    assert data(page)[0]["systems"] == ["baseline", "judged"]
    # the baseline has no verdicts: F1 ranks, and the judge's means are shown where they are
    assert "F1 of each system" in page.text
    assert "judged correct F1 exact match judged better baseline — 0.250" in page.text


def test_a_judges_verdicts_rank_systems_that_all_have_them(report: Report, runs: Any) -> None:
    paths = [runs.answers(name, [0.5] * 6) for name in ("base", "tuned")]
    for path, verdict in zip(paths, (0.0, 1.0), strict=True):
        records = read_jsonl(path / "predictions.jsonl")
        marked = [{**r, "scores": {**r["scores"], "correct": verdict}} for r in records]
        write_jsonl(path / "predictions.jsonl", marked)
    assert "judged correct of tuned is 1.000, +1.000 from the 0.000 of base" in report(*paths).text


def test_a_metric_that_systems_have_for_different_questions_is_shown_and_not_compared(
    report: Report, runs: Any
) -> None:
    paths = [runs.answers(name, [0.5, 0.6, 0.7]) for name in ("base", "tuned")]
    records = read_jsonl(paths[1] / "predictions.jsonl")
    del records[0]["scores"]["em"]
    write_jsonl(paths[1] / "predictions.jsonl", records)
    page = report(*paths)
    assert "System F1 exact match base 0.600" in page.text
    assert "3 questions about 2 documents" in page.text


def test_slices_that_differ_between_systems_are_not_shown(report: Report, runs: Any) -> None:
    paths = [runs.answers(name, [0.1, 0.2, 0.3, 0.5]) for name in ("base", "tuned")]
    records = read_jsonl(paths[1] / "predictions.jsonl")
    records[0]["slices"] = ["kind=odd"]
    write_jsonl(paths[1] / "predictions.jsonl", [*records])
    assert data(report(paths[0]))[0]["slices"] == ["kind=even", "kind=odd"]
    both = report(*paths, output=str(runs.folder / "both"))
    assert data(both)[0]["slices"] == []
    assert "by kind of question" not in both.text


def test_runs_of_one_name_are_told_apart_by_their_folders(report: Report, runs: Any) -> None:
    paths = [runs.retriever(f"{seed}/tuned", BASE) for seed in ("seed-0", "seed-1")]
    assert data(report(*paths))[0]["systems"] == ["seed-0/tuned", "seed-1/tuned"]


def test_provenance_is_told_and_secrets_are_not(
    report: Report, runs: Any, pair: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-environment")
    account = read_json(pair[0] / "run.json")
    argv = ["ragkit", "eval-retriever", "--set", "base_url=https://me:hunter2@host/v1"]
    account["starts"].append({"argv": argv, "time": "2026-01-02T00:00:00"})
    write_json(pair[0] / "run.json", account)
    page = report(*pair)
    for told in ("0.1.0+abcdef", "commit c0ffeec0ffee with changes", "Seed 5", "cpu (2 threads)",
                 "torch 2.8", "corpus.jsonl", "ragkit eval-retriever tuned"):  # fmt: skip
        assert told in page.text
    assert "hunter2" not in page.html and "//***@host/v1" in page.text
    assert "sk-of-the-environment" not in page.html


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("ragkit --set api_key=abc x", "ragkit --set api_key=*** x"),
        ("ragkit --password abc", "ragkit --password ***"),
        ("ragkit sk-abcdefghijklmnopqrstuv", "ragkit ***"),
        ("--set teacher.api_key_env=MY_KEY", "--set teacher.api_key_env=MY_KEY"),
        ("--set max_tokens=512", "--set max_tokens=512"),
    ],
)
def test_command_lines_lose_their_secrets_and_nothing_else(command: str, shown: str) -> None:
    assert without_secrets(command) == shown


def test_a_directory_that_is_no_run_is_refused(report: Report, runs: Any) -> None:
    (runs.folder / "photos").mkdir()
    with pytest.raises(DataError, match="photos: not a run directory"):
        report(runs.folder / "photos")
    write_json(runs.folder / "photos" / "run.json", ["a list"])
    with pytest.raises(DataError, match=r"photos: its run\.json is not ragkit's"):
        report(runs.folder / "photos")


def test_an_unfinished_run_is_refused(report: Report, runs: Any, pair: list[Path]) -> None:
    runs.account("tuned", "eval-retriever", status="running")
    with pytest.raises(DataError, match=r"tuned: eval-retriever is not finished \(status running"):
        report(*pair)


def test_runs_on_different_questions_are_refused(report: Report, runs: Any) -> None:
    fewer = [runs.retriever("base", BASE), runs.retriever("short", BASE[:5])]
    with pytest.raises(DataError, match="'q10' is in one of them only"):
        report(*fewer)
    other = runs.retriever("other", BASE)
    text = (other / "per_query.jsonl").read_text().replace("What is number 3?", "Who is 3?")
    (other / "per_query.jsonl").write_text(text)
    with pytest.raises(DataError, match="question 'q3' is another one here than in .*base"):
        report(fewer[0], other)


def test_a_baseline_that_is_not_there_is_refused(report: Report, pair: list[Path]) -> None:
    with pytest.raises(DataError, match="no run 'bsae'; there are base, tuned"):
        report(*pair, baseline="bsae")


def test_runs_with_nothing_to_show_are_refused(report: Report, runs: Any) -> None:
    with pytest.raises(DataError, match="nothing to report in runs of index"):
        report(runs.account("index", "index"))


def test_the_command_prints_the_headline_and_where_the_page_is(
    ragkit: Callable[..., Any], runs: Any, pair: list[Path]
) -> None:
    output = str(runs.folder / "report")
    done = ragkit("report", *map(str, pair), "--baseline", "tuned", "-o", output)
    assert done.code == 0
    assert "Nothing here is above tuned." in done.out
    assert "report.html (0." in done.out


@pytest.mark.parametrize(
    ("metric", "said"), [("f1", "F1 on dev questions went from 0.100 to 0.400"),
                         ("loss", "loss on dev questions went from 3.000 to 1.000")]
)  # fmt: skip
def test_a_generator_is_told_by_the_metric_that_chose_it(
    metric: str, said: str, report: Report, runs: Any
) -> None:
    train = runs.account("gen", "train-generator")
    dev = [
        {"step": 0, "eval_loss": 3.0, "eval_f1": 0.1, "eval_rouge_l": 0.2},
        {"step": 4, "eval_loss": 1.0, "eval_f1": 0.4, "eval_rouge_l": 0.5},
        {"step": 8, "eval_loss": 1.5, "eval_f1": 0.3, "eval_rouge_l": 0.6},
    ]
    write_jsonl(train / "history.jsonl", dev)
    write_json(train / "metrics.json", {"metrics": {f"dev_{metric}": {}}, "best_step": 4})
    assert said in report(train).text
