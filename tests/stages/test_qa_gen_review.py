"""qa-gen's questions corrected by a person, and the page that tells what became of all of them."""

import csv
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ragkit.data.files import read_json, read_jsonl
from ragkit.errors import DataError

QaGen = Callable[..., Any]
Rows = list[dict[str, str]]


def read_rows(path: Path) -> Rows:
    with path.open(newline="", encoding="utf-8-sig") as f:
        return list(csv.DictReader(f))


def write_rows(path: Path, rows: Rows) -> None:
    with path.open("w", newline="", encoding="utf-8-sig") as f:
        writer = csv.DictWriter(f, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def files_of(path: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in path.iterdir() if p.is_file()}


@pytest.fixture
def reviewed(pumps: dict[str, Any]) -> dict[str, Any]:
    return {**pumps, "review": True, "unanswerable": 0.4}


def test_a_review_holds_the_dev_and_test_questions_with_their_passages(
    qa_gen: QaGen, reviewed: dict[str, Any], ragkit: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "c.yaml").write_text(json.dumps({**reviewed, "review": False}))
    done = ragkit("qa-gen", "-c", str(tmp_path / "c.yaml"), "--review")
    assert done.code == 0
    made = qa_gen(**reviewed)  # done already
    rows = read_rows(made.path / "review.csv")
    assert f"{len(rows)} questions to correct; then run the same command again" in done.err
    found = [(name, e) for name in ("test", "dev") for e in made.splits[name]]
    assert len(rows) == len(found)
    for row, (name, example) in zip(rows, found, strict=True):
        assert (row["id"], row["split"], row["keep"]) == (example.id, name, "yes")
        assert (row["question"], row["answer"]) == (example.question, "".join(example.answers))
        assert row["passage_id"] in (*example.positive_ids, example.meta.get("about"))
        passage = made.corpus[row["passage_id"]]
        assert (row["title"], row["passage"]) == (passage.title, passage.text)
    assert "- No person has corrected test and dev questions yet." in made.card


def test_a_review_that_was_not_touched_leaves_all_as_it_was(
    qa_gen: QaGen, reviewed: dict[str, Any], teacher: Any, log_lines: list[str]
) -> None:
    before = files_of(qa_gen(**reviewed).path)
    teacher.forget()
    made = qa_gen(**reviewed)
    assert f"{made.path}: all done already" in log_lines
    assert files_of(made.path) == before
    assert teacher.asked() == []


def test_what_a_person_corrected_is_in_the_next_starts_files(
    qa_gen: QaGen, reviewed: dict[str, Any], teacher: Any, log_lines: list[str]
) -> None:
    first = qa_gen(**reviewed)
    review = first.path / "review.csv"
    rows = read_rows(review)
    plain = [row for row in rows if row["answer"]]
    dropped, changed = plain[0], plain[-1]
    open_ = next(row for row in rows if not row["answer"])
    dropped["keep"] = "no"
    changed |= {"question": "For how long can it be used?", "answer": "For hours."}
    open_["answer"] = "The Müller company."
    rows.append({**dict.fromkeys(rows[0], ""), "keep": "yes", "split": dropped["split"],
                 "question": "Does it need a charge?", "answer": "Yes, a full one.",
                 "passage_id": dropped["passage_id"]})  # fmt: skip
    write_rows(review, rows)
    teacher.forget()
    second = qa_gen(**reviewed)
    assert teacher.asked() == []
    assert read_rows(review) == rows
    assert second.splits["train"] == first.splits["train"]
    before, after = ({e.id: e for e in made.examples} for made in (first, second))
    (new,) = after.keys() - before.keys()
    assert before.keys() - after.keys() == {dropped["id"]}
    others = before.keys() - {dropped["id"], changed["id"], open_["id"]}
    assert all(after[i] == before[i] for i in others)
    assert after[changed["id"]].question == "For how long can it be used?"
    assert after[changed["id"]].answers == ("For hours.",)
    assert after[changed["id"]].positive_ids == before[changed["id"]].positive_ids
    assert after[open_["id"]].answerable
    assert after[open_["id"]].positive_ids == (open_["passage_id"],)
    assert after[new] in second.splits[dropped["split"]]
    assert (after[new].question, after[new].answers, after[new].positive_ids) == (
        "Does it need a charge?", ("Yes, a full one.",), (dropped["passage_id"],)
    )  # fmt: skip
    assert all(after[i].meta["reviewed"] for i in (new, changed["id"], open_["id"]))
    assert "- Corrected by a person: 1 dropped, 2 rewritten, 1 added." in second.card
    assert second.funnel["dropped by a person"] == second.funnel["added by a person"] == 1
    rejected = len(read_jsonl(second.path / "rejected.jsonl"))
    assert second.funnel["kept"] == len(second.examples)
    assert second.funnel["generated"] + 1 == second.funnel["kept"] + rejected + 1
    log_lines.clear()
    qa_gen(**reviewed)
    assert f"{second.path}: all done already" in log_lines
    # as often as it has changed: a decision is taken back
    rows[rows.index(dropped)]["keep"] = "yes"
    write_rows(review, rows[:-1])
    third = qa_gen(**reviewed)
    assert {e.id for e in third.examples} == set(before)
    assert "- Corrected by a person: 0 dropped, 2 rewritten, 0 added." in third.card


def test_a_row_that_cannot_be_understood_is_told_and_loses_nothing(
    qa_gen: QaGen, reviewed: dict[str, Any], teacher: Any
) -> None:
    first = qa_gen(**reviewed)
    review = first.path / "review.csv"
    rows = read_rows(review)
    write_rows(review, [rows[0], {**rows[1], "keep": "perhaps"}, *rows[2:]])
    with pytest.raises(DataError, match=rf"{re.escape(str(review))}:3: keep: 'perhaps' is neither"):
        qa_gen(**reviewed)
    write_rows(review, [rows[0], {**rows[1], "keep": "no"}, *rows[2:]])
    teacher.forget()
    assert len(qa_gen(**reviewed).examples) == len(first.examples) - 1
    assert teacher.asked() == []


@pytest.mark.parametrize("limit", [24, 2])
def test_the_card_shows_ten_random_samples_or_all(
    qa_gen: QaGen, pumps: dict[str, Any], limit: int
) -> None:
    made = qa_gen(**{**pumps, "limit": limit, "splits": {"dev": 0, "test": 0}})
    expected = min(10, len(made.examples))
    drawn = made.card.split(f"## {expected} random samples\n")[1].strip().split("\n\n")
    assert len(drawn) == len(set(drawn)) == expected
    shown = {}
    for sample in drawn:
        question, answer, about = sample.splitlines()
        shown[question.strip("* ")] = answer.strip(), about
    for example in made.examples:
        if found := shown.pop(example.question, None):
            (passage,) = (made.corpus[i] for i in example.positive_ids)
            assert found == (example.answers[0], f"*{passage.title}*: {passage.text}")
    assert shown == {}


def test_every_generated_question_is_kept_or_rejected_for_one_reason(
    qa_gen: QaGen, passes: dict[str, Any], teacher: Any, pairs: Any
) -> None:
    def factoid(request: Any) -> Any:
        colour, thing, hours = request.facts[0]
        if colour == "red":
            return "I am sorry."
        return pairs(
            (f"How long does the {colour} {thing} run?", hours),
            (f"How long does the {colour} {thing} run!", hours),  # the same words
            (f"For how long do {colour} devices run?", hours),  # made by two passages
            ("Why?", "So."),
            (f"What does the passage say of the {colour} {thing}?", hours),
            (f"Who makes the {colour} {thing}?", "The passage does not mention it."),
            (f"What is the {colour} {thing} good for?", "Nothing, whatever anybody told you."),
        )

    def answer(request: Any) -> Any:
        return {
            "answer": ""
            if "yellow" in request.text
            else re.split("Question: |User: ", request.text)[-1]
        }

    teacher.replies["factoid"] = factoid
    teacher.replies["answer"] = answer
    teacher.replies["critic"] = lambda r: {
        "clear": "pink" not in r.text, "answered": "Who built" not in r.text, "correct": True,
    }  # fmt: skip
    styles = ["factoid", "multi-passage", "conversation"]
    made = qa_gen(**{**passes, "styles": styles, "unanswerable": 0.2})
    rejected = [r for r in read_jsonl(made.path / "rejected.jsonl") if "question" in r]
    reasons = Counter(r["reason"] for r in rejected)
    assert {
        "too short, too long or without answer", "answered that there is no answer", "duplicate",
        "does not stand alone", "no second answer", "answered, and should not be",
        "refused by the critic",
    } <= set(reasons)  # fmt: skip
    assert made.funnel.pop("unreadable answers") == 2
    requests = made.funnel.pop("requests")
    assert requests == sum(len(teacher.asked(style)) for style in [*styles, "unanswerable"])
    generated, kept = made.funnel.pop("generated"), made.funnel.pop("kept")
    assert kept == len(made.examples)
    assert {name: n for name, n in made.funnel.items() if n} == reasons
    assert generated == kept + len(rejected)
    # the passages of what was merged are positives of what it was merged into
    merged = [e for e in made.examples if len(e.positive_ids) > 1 and "devices" in e.question]
    duplicates = {r["question"] for r in made.rejected("duplicate")}
    assert merged and {e.question for e in merged} <= duplicates
    card = dict(re.findall(r"^\| ([a-z, ]+) \| ([\d,]+) \|$", made.card, re.MULTILINE))
    assert {name: int(n) for name, n in card.items()} == {
        "requests": requests, "unreadable answers": 2, "generated": generated, **reasons,
        "kept": kept,
    }  # fmt: skip
    assert read_json(made.path / "funnel.json")["generated"] == generated
