"""What qa-gen is told: which passages are alike, in which language, by which words and examples."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ragkit.data.files import read_jsonl, write_jsonl
from ragkit.errors import ConfigError, DataError

PASSAGES = 24
SPLITS = ("train", "dev", "test")
QaGen = Callable[..., Any]
COPY = "It runs on its battery, and every {} device of this series is charged over night at home."
GERMAN = ("Wie lange läuft die Pumpe nach einer vollen Ladung?", "Sie läuft dann {} Stunden lang.")


def test_near_duplicate_passages_are_asked_about_once(
    qa_gen: QaGen, pumps: dict[str, Any], teacher: Any, write_passages_csv: Any
) -> None:
    fact = "The {} pump runs {} hours after a full charge. " + COPY.format("single")
    rows = [(f"{c}-guide", fact.format("red", 3)) for c in ("green", "blue")]
    rows += [("white-guide", fact.format("red", 4)), ("black-guide", fact.format("grey", 3))]
    pumps["input"] = write_passages_csv(rows)
    made = qa_gen(**{**pumps, "splits": {"dev": 0, "test": 0}, "near_duplicate": 0.7})
    (group,) = read_jsonl(made.path / "near-duplicates.jsonl")
    assert [made.corpus[i].title for i in group["ids"]] == [
        "green-guide",
        "blue-guide",
        "black-guide",
    ]
    # another figure is another device; of the three alike the first is asked about
    assert sorted(r.facts[0] for r in teacher.asked()) == [
        ("red", "pump", "3"),
        ("red", "pump", "4"),
    ]
    card = made.card
    assert "- 2 near-duplicates of other passages are not asked about." in card
    assert len(made.corpus) == 4


def test_documents_that_share_near_duplicates_are_in_one_split_where_that_is_asked_for(
    qa_gen: QaGen, pumps: dict[str, Any], teacher: Any, write_passages_csv: Any
) -> None:
    rows, devices = [], "abcdefghijkl"  # each with two versions of its manual
    for i, device in enumerate(devices):
        shared = f"{COPY.format(device)} The case has {i + 40} screws."
        for n, version in enumerate(("old", "new")):
            own = f"The {version} pump runs {2 * i + n + 2} hours after a full charge."
            rows += [(f"{version}-{device}", shared), (f"{version}-{device}", own)]
    pumps["input"] = write_passages_csv(rows)
    teacher.replies["factoid"] = lambda r: json.dumps(
        {"pairs": [{"question": f"What is said on {r.text[-60:-1]}?", "answer": r.text}]}
    )
    values = {**pumps, "filters": {**pumps["filters"], "support": 0, "language": False}}
    values["splits"] = {"dev": 0.3, "test": 0.3}
    apart = {}
    for by in ("document", "group"):
        splits = {**values["splits"], "by": by}
        made = qa_gen(**{**values, "splits": splits, "output": f"{values['output']}{by}"})
        split_of = {d: name for name in SPLITS for d in made.documents(name)}
        assert len(split_of) == 2 * len(devices) and set(split_of.values()) == set(SPLITS)
        apart[by] = sum(split_of[f"old-{c}"] != split_of[f"new-{c}"] for c in devices)
    assert apart["document"] > 0
    assert apart["group"] == 0


@pytest.mark.parametrize("language", ["", "German"])
def test_answers_in_another_language_than_asked_for_are_rejected(
    qa_gen: QaGen, pumps: dict[str, Any], teacher: Any, pairs: Any, language: str
) -> None:
    def reply(request: Any) -> Any:
        colour, thing, hours = request.facts[0]
        english = (f"For how long does the {colour} {thing} run after that?", f"{hours} hours")
        return pairs(english, (f"{colour}: {GERMAN[0]}", GERMAN[1].format(hours)))

    teacher.replies["factoid"] = reply
    made = qa_gen(**{**pumps, "filters": {"round_trip": None, "leak_rouge_l": 1.0}},
                 **({"language": language} if language else {}))  # fmt: skip
    told = f"Write in {language or 'the language of the passage'}."
    assert all(told in r.system for r in teacher.asked())
    refused = made.rejected("in another language")
    assert {r["split"] for r in refused} == set(SPLITS)
    assert len(refused) == PASSAGES
    assert {("Pumpe" in r["question"]) for r in refused} == {not language}
    assert {("Pumpe" in e.question) for e in made.examples} == {bool(language)}


def test_a_style_of_ones_own_is_asked_by_the_template_in_the_folder(
    qa_gen: QaGen, pumps: dict[str, Any], teacher: Any, pairs: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "templates"
    folder.mkdir()
    (folder / "riddle.txt").write_text("$n riddles in $language, which cost 3 $$.")
    (folder / "instructions.txt").write_text("You are a poet.\n\nWrite $task")
    teacher.replies["own"] = lambda r: pairs(
        (f"I run {r.facts[0][2]} hours and am {r.facts[0][0]}: who am I?", f"the {r.facts[0][1]}")
    )
    values = {**pumps, "styles": ["riddle"], "prompts": str(folder)}
    values["teacher"] = {**pumps["teacher"], "n": 7}
    made = qa_gen(**values)
    system = "You are a poet.\n\nWrite 7 riddles in the language of the passage, which cost 3 $."
    assert {r.system for r in teacher.asked()} == {system}
    found = made.examples
    assert len(found) == PASSAGES and {e.meta["style"] for e in found} == {"riddle"}


@pytest.mark.parametrize("name", ["factoid", "unanswerable", "reading", "answer", "critic"])
def test_a_wrong_placeholder_is_told_before_the_first_request_and_can_be_mended(
    qa_gen: QaGen, passes: dict[str, Any], teacher: Any, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "templates"
    folder.mkdir()
    template = folder / f"{name}.txt"
    template.write_text("Ask $number questions.")
    values = {**passes, "prompts": str(folder), "reading": {"by": "teacher"}}
    with pytest.raises(ConfigError, match=rf"{re.escape(str(template))}: \$number: nothing fills"):
        qa_gen(**values)
    assert teacher.asked() == []
    template.unlink()
    assert len(qa_gen(**values).examples) == PASSAGES


def test_examples_are_shown_to_the_teacher_in_the_prompts_of_their_style(
    qa_gen: QaGen, pumps: dict[str, Any], teacher: Any, pairs: Any, tmp_path: Path
) -> None:
    write_jsonl(
        tmp_path / "show.jsonl",
        [
            {"passage": "A lamp.", "question": "What is lit?", "answer": "A lamp."},
            {"passage": "A door.", "question": "Is it shut?", "answer": "Yes.", "style": "how-to"},
        ],
    )
    qa_gen(**{**pumps, "styles": ["factoid", "how-to"]}, show=str(tmp_path / "show.jsonl"))
    lamp = ["Passage:\n\nA lamp.", json.dumps(pairs(("What is lit?", "A lamp.")))]
    door = ["Passage:\n\nA door.", json.dumps(pairs(("Is it shut?", "Yes.")))]
    for task, shown in (("factoid", lamp), ("how-to", [*lamp, *door])):
        requests = teacher.asked(task)
        assert len(requests) == PASSAGES
        assert all([m["content"] for m in r.messages[1:-1]] == shown for r in requests)


def test_a_bad_file_of_examples_is_told_with_its_line_and_can_be_mended(
    qa_gen: QaGen, pumps: dict[str, Any], teacher: Any, tmp_path: Path
) -> None:
    good = {"passage": "A lamp.", "question": "What is lit?", "answer": "A lamp."}
    show = write_lines(tmp_path / "show.jsonl", good, {"passage": "A door.", "answer": "Yes."})
    with pytest.raises(DataError, match=rf"{re.escape(show)}:2: question: a string was expected"):
        qa_gen(**pumps, show=show)
    assert teacher.asked() == []
    write_lines(tmp_path / "show.jsonl", good)
    assert len(qa_gen(**pumps, show=show).examples) == PASSAGES


def write_lines(path: Path, *records: dict[str, str]) -> str:
    write_jsonl(path, iter(records))
    return str(path)
