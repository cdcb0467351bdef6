"""Reading-comprehension tasks: each kind on a hand-made text, then what must hold for any text."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragkit.qa.heuristic import page
from ragkit.qa.reading import WORDINGS, Task, messages, mine

# kinds whose answer is one stretch of the text, up to its first capital and its full stop
SPANS = {
    "completion", "words", "definition", "paraphrase", "cause", "effect", "contrast", "instead",
    "example", "condition", "purpose", "next", "term", "cell",
}  # fmt: skip
STEPS = (
    "Run the setup as the administrator of the host.\n\n"
    "1. Open the configuration file.\n2. Add the address.\n3. Restart the server.\n"
)
TABLE = (
    "The options of the gateway are set in its file.\n\n"
    "| Option | Default |\n| --- | --- |\n| retries | 3 |\n| timeout | 15 seconds |\n"
)
RICH = (
    "A gauge is a metric that represents a number which can go up and down. "
    "The counter is reset because the process loses its memory. Therefore, a query has to be "
    "aware of such resets. The archive keeps samples for 15 days and then deletes them.\n\n"
    "The gateway has these parts:\n\n- a listener\n- a queue\n- a writer of the log\n\n" + STEPS
)


def tasks(text: str, kind: str, title: str = "", seed: int = 0) -> list[Task]:
    return [task for task in mine(title, text, 50, seed) if task.kind == kind]


def test_a_title_is_asked_for_where_the_text_shows_it_to_be_its_own() -> None:
    text = (
        "The retention of the archive is set by the operator. Old samples are deleted after that "
        "time, and the archive becomes smaller. The retention of one tenant may be longer."
    )
    assert [t.answer for t in tasks(text, "title", "Guide > Archive retention")] == [
        "Archive retention"
    ]
    assert [t.answer for t in tasks(text, "title", "Archive retention > Overview")] == [
        "Archive retention"
    ]
    assert tasks(text, "title", "Billing of suppliers") == []
    assert tasks(text, "title") == []


SENTENCES = [
    (
        "cause",
        "The counter is reset because the process loses its memory.",
        "The counter is reset.",
        "The process loses its memory.",
    ),
    (
        "cause",
        "Because the process loses its memory, the counter begins at zero.",
        "the counter begins at zero.",
        "The process loses its memory.",
    ),
    (
        "cause",
        "The old format is not read any more. This is because the parser was replaced last year.",
        "The old format is not read any more.",
        "The parser was replaced last year.",
    ),
    (
        "effect",
        "The server keeps the samples in memory. Therefore, a restart of the server is slow.",
        "The server keeps the samples in memory.",
        "A restart of the server is slow.",
    ),
    (
        "effect",
        "The gateway has one queue, so the requests are sent in order.",
        "The gateway has one queue.",
        "The requests are sent in order.",
    ),
    (
        "contrast",
        "The gateway retries the request three times. However, the agent never retries a request.",
        "The gateway retries the request three times.",
        "The agent never retries a request.",
    ),
    (
        "contrast",
        "Although the agent is small, it needs the whole configuration.",
        "The agent is small.",
        "It needs the whole configuration.",
    ),
    (
        "instead",
        "The old endpoint is not supported any more. Instead, use the endpoint of the gateway.",
        "The old endpoint is not supported any more.",
        "Use the endpoint of the gateway.",
    ),
    (
        "example",
        "Labels with many values are to be avoided. For example, do not store the user as a label.",
        "Labels with many values are to be avoided.",
        "Do not store the user as a label.",
    ),
    (
        "paraphrase",
        "The protocol of the queue is idempotent. In other words, a request can be sent twice.",
        "The protocol of the queue is idempotent.",
        "A request can be sent twice.",
    ),
    (
        "condition",
        "If the server restarts, the gauge is set to zero again.",
        "if the server restarts",
        "The gauge is set to zero again.",
    ),
    (
        "purpose",
        "To add a new target, open the configuration file of the server.",
        "add a new target",
        "Open the configuration file of the server.",
    ),
    (
        "definition",
        "A gauge is a metric that represents a number which can go up and down.",
        "gauge",
        "A gauge is a metric that represents a number which can go up and down.",
    ),
    (
        "definition",
        "The term retention refers to the time for which samples are kept.",
        "retention",
        "The term retention refers to the time for which samples are kept.",
    ),
]


@pytest.mark.parametrize(("kind", "text", "asked", "answer"), SENTENCES)
def test_a_sentence_gives_its_task(kind: str, text: str, asked: str, answer: str) -> None:
    found = tasks(text, kind)
    assert [task.answer for task in found] == [answer]
    assert asked.lower() in found[0].prompt.lower()
    assert answer.lower() not in found[0].prompt.lower()


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("cause", "The counter did not reset just because the process forgot its memory."),
        ("cause", "It is slow because the process forgets its memory."),
        ("cause", "The counter was reset because of the memory of the process."),
        ("effect", "The gateway has one queue, so that the requests are sent in order."),
        ("effect", "This is a fact. Therefore, a restart of the server is slow."),
        ("contrast", "The gateway has not only one queue, but also the log of the server."),
        ("condition", "If it fails again, the gauge is set to zero."),
        ("condition", "If you have pears, apples, and a knife, the cake is ready."),
        ("purpose", "To learn more about it, read the guide of the gateway."),
        ("definition", "The first step is to open the file that has the settings of the server."),
        ("definition", "The default of this option is a value that nobody should use."),
    ],
)
def test_what_is_not_certain_gives_no_task(kind: str, text: str) -> None:
    assert tasks(text, kind) == []


def test_key_words_lead_to_the_one_sentence_that_has_them() -> None:
    text = (
        "The retention of the archive is set by the operator of the cluster. "
        "The operator of the cluster is told by the mail server of the department."
    )
    found = tasks(text, "words")
    assert len(found) == 2
    first = next(t for t in found if "archive" in t.prompt)
    assert first.answer == "The retention of the archive is set by the operator of the cluster."
    for word in ("retention", "archive", "operator", "cluster"):
        assert word in first.prompt


def test_a_statement_is_as_the_text_has_it_or_has_a_number_that_it_nowhere_has() -> None:
    text = "The archive keeps samples for 14 days. The second archive of the team has 15 rooms."
    right = "The archive keeps samples for 14 days."
    seen = set()
    for seed in range(40):
        for task in tasks(text, "truth", seed=seed):
            stated = task.prompt[task.prompt.index("“") + 1 : task.prompt.rindex("”")]
            seen.add((stated, task.answer))
    false = {s for s, answer in seen if answer != "Yes" and "keeps" in s}
    assert {answer for s, answer in seen if s == right} == {"Yes"}
    assert false == {right.replace("14", n) for n in ("16", "17", "19")}  # 15 is in the text
    assert {a for s, a in seen if s in false} == {f"No. The text says: “{right}”"}


@pytest.mark.parametrize(
    "text",
    [
        "The archive keeps samples for at least 14 days.",  # for at least 13 as well
        "It keeps samples for 14 days.",
        "The archive of version 14 keeps samples.",
        "The archive keeps 1 sample of every series.",
        "The number of the archive has 15–17 digits of precision.",
    ],
)
def test_no_statement_is_made_where_another_number_might_be_right(text: str) -> None:
    assert tasks(text, "truth") == []


def test_a_cell_of_another_row_makes_a_false_statement() -> None:
    assert {(t.prompt.split("the ")[-1].rstrip("?."), t.answer) for t in tasks(TABLE, "cell")} <= {
        ("default of retries", "3"),
        ("default of timeout", "15 seconds"),
    }
    stated = {(t.prompt, t.answer) for seed in range(30) for t in tasks(TABLE, "truth", seed=seed)}
    right = {a for p, a in stated if "“The default of retries is 3.”" in p}
    wrong = {a for p, a in stated if "“The default of retries is 15 seconds.”" in p}
    assert right == {"Yes"}
    assert wrong == {"No. The text says: “The default of retries is 3.”"}


def test_steps_are_put_into_order_and_followed() -> None:
    order = next(task for seed in range(9) for task in tasks(STEPS, "order", seed=seed))
    assert order.answer == (
        "1. Open the configuration file.\n2. Add the address.\n3. Restart the server."
    )
    given_order = [line[2:] for line in order.prompt.split("\n")[1:]]
    steps = [line[3:] for line in order.answer.split("\n")]
    assert sorted(given_order) == sorted(steps) and given_order != steps
    pairs = set()
    for seed in range(40):
        for task in tasks(STEPS, "next", seed=seed):
            asked = re.search("“(.*)”", task.prompt)
            assert asked
            pairs.add((asked[1], task.answer))
    assert pairs == set(zip(steps, steps[1:], strict=False))


def test_a_whole_list_is_named_after_the_line_that_introduces_it() -> None:
    listed = "The gateway has these parts:\n\n- a listener\n- a queue\n- a writer\n\n"
    text = listed + "The order of these parts is not important."
    found = tasks(text, "list")
    assert [task.answer for task in found] == ["- a listener\n- a queue\n- a writer"]
    assert "The gateway has these parts:" in found[0].prompt
    cut = "The gateway is a server. The gateway has these parts:\n\n- a listener\n- a queue"
    assert tasks(cut, "list") == []  # more items may follow in the next passage
    nested = text.replace("- a queue", "  - a queue")
    assert tasks(nested, "list") == []
    with_code = text.replace("- a queue", "```\nqueue\n```\n- a queue")
    assert tasks(with_code, "list") == []


def test_an_entry_is_found_by_its_description() -> None:
    text = (
        "The gateway is made of two parts:\n\n"
        "- Listener: accepts the requests of all clients.\n"
        "- Writer: keeps the log on the local disk.\n"
    )
    assert {t.answer for t in tasks(text, "term")} == {"Listener", "Writer"}


def test_headings_are_outlined() -> None:
    text = (
        "# Install\n\nThe package is on the server of the team.\n\n# Run\n\nThe agent is started."
    )
    assert [t.answer for t in tasks(text, "outline")] == ["- Install\n- Run"]


def test_a_completion_and_its_prompt_are_the_text() -> None:
    first = "The archive is kept on the local disk of the server, and the operator pays for it."
    rest = "The retention of the archive is set by the operator of the cluster."
    found = tasks(f"{first} {rest}", "completion")
    assert [task.answer for task in found] == [rest]
    assert found[0].prompt.endswith(f"\n\n{first}")
    assert tasks(f"{first} {rest[:-20]}", "completion") == []  # the text is cut
    assert tasks(f"{first} {rest}\n\n    code = 1", "completion") == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "lorem ipsum 123 &amp; <div> {{x}} ???",
        "def main():\n    return [x for x in range(10) if x > 2]  # because of the loop\n",
        "| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |\n",
        "Der Zähler wird zurückgesetzt, weil der Prozess neu startet. Deshalb ist die Abfrage "
        "langsam. Die Daten werden 15 Tage lang gespeichert.",
        "服务器重新启动。因此查询很慢。数据保存15天。",
        "and then the rest of a sentence that was cut because of the",
    ],
)
def test_noise_code_bare_tables_and_other_languages_give_nothing(text: str) -> None:
    assert mine("A title of the text", text, 10) == []


def test_at_most_n_and_as_many_kinds_as_there_are() -> None:
    everything = mine("Gauges", RICH, 50)
    assert len({task.kind for task in everything}) >= 6
    for n in range(7):
        few = mine("Gauges", RICH, n)
        assert len(few) == n == len({task.kind for task in few})


def test_a_seed_draws_other_tasks_and_wordings() -> None:
    assert len({tuple(mine("Gauges", RICH, 4, seed)) for seed in range(10)}) > 5
    text = SENTENCES[0][1]
    prompts = {task.prompt for seed in range(30) for task in tasks(text, "cause", seed=seed)}
    assert len(prompts) == len(WORDINGS["cause"])


def test_hash_randomisation_changes_nothing() -> None:
    code = f"from ragkit.qa.reading import mine; print(mine('T', {RICH!r}, 12, 3))"
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1 and "Task(" in printed.pop()


def test_the_chat_alternates_and_holds_the_passage_once() -> None:
    cause, effect = Task("cause", "Why?", "So."), Task("effect", "And?", "Thus.")
    assert messages("T", "A text.", [cause, effect]) == [
        {"role": "user", "content": "T\nA text.\n\nWhy?"},
        {"role": "assistant", "content": "So."},
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": "Thus."},
    ]
    assert messages("T", "A text.", []) == []


def test_the_chat_does_not_show_what_is_asked_for() -> None:
    title = Task("title", "Which title?", "T")
    rest = Task("completion", "Go on:\n\nOne.", "Two.")
    assert messages("T", "One. Two.", [title])[0]["content"] == "One. Two.\n\nWhich title?"
    turns = messages("T", "One. Two.", [title, rest])
    assert [turn["content"] for turn in turns] == ["Go on:\n\nOne.", "Two.", "Which title?", "T"]


@pytest.mark.parametrize("unit", ["a", "(a ", "x\n", "If a, ", "* ", "a|", "<a ", "The A is 5 b. "])
def test_five_megabytes_are_cut_to_what_is_read(unit: str) -> None:
    text = unit * (5_000_000 // len(unit))
    assert mine(text[:90], text, 3) == mine(text[:90], text[: page.MAX_CHARS], 3)


LINES = st.sampled_from(
    [
        *RICH.split("\n"),
        *TABLE.split("\n"),
        *(text for _, text, _, _ in SENTENCES),
        "# How to add a target",
        "The limit of `max_size` is **20 requests**, but the agent has no limit.",
        "See [the guide](http://x.y/z) of the gateway, because the text is short.",
        "- Reader: reads the log of the local disk",
        "```",
        "    x = 1",
        "Ein Satz, weil der Zähler es will.",
        "A cut sentence because the",
    ]
)


@settings(max_examples=150, deadline=None)
@given(
    lines=st.lists(LINES | st.text(max_size=40), max_size=12),
    gap=st.sampled_from([" ", "\n", "\n\n"]),
    seed=st.integers(0, 99),
)
def test_answers_that_must_be_spans_are_spans(lines: list[str], gap: str, seed: int) -> None:
    text = gap.join(lines)
    blocks = page.blocks(text)
    words = " ".join(b.text.words for b in blocks).casefold()
    cells = {cell.words for b in blocks for cell in b.cells}
    for task in mine("Retention of the gateway", text, 9, seed):
        assert task.kind in WORDINGS and "{x}" not in task.prompt
        assert task.answer.strip() == task.answer != ""
        if task.kind == "cell":
            assert task.answer in cells
        elif task.kind in SPANS:
            assert task.answer.casefold().rstrip(".") in words
            assert task.answer[-1] not in ",:;("
