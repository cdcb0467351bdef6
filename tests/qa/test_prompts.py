"""What a teacher is asked, and its answers in the many forms that models give them."""

import json
from pathlib import Path
from typing import Any

import pytest

from ragkit.data.files import write_jsonl
from ragkit.data.journal import passage_sha256
from ragkit.data.schema import Passage, Turn
from ragkit.errors import ConfigError, DataError
from ragkit.qa.prompts import (
    ANSWER_SCHEMA,
    PAIRS_SCHEMA,
    STYLES,
    VERDICT_SCHEMA,
    Prompts,
    QuestionAnswer,
    Request,
    dump,
    parse,
    parse_answer,
    parse_verdict,
    read_examples_to_show,
)

PAIR = '{"question": "How long?", "answer": "12 hours"}'
WANTED = [QuestionAnswer("How long?", "12 hours")]
GUIDE = Passage("p", "It takes {braces} and $5 too.", title="Guide", doc_id="d")
OTHER = Passage("q", "Another text.", doc_id="d")
VERDICT = {"clear": True, "answered": False, "correct": True, "reason": "too vague"}


def system_of(prompts: Prompts, style: str = "factoid", n: int = 7) -> str:
    chat = prompts.questions(Request((GUIDE,), style), n)
    assert [m["role"] for m in chat] == ["system", "user"]
    return chat[0]["content"]


@pytest.mark.parametrize("style", [*STYLES, "unanswerable"])
def test_the_prompt_holds_style_number_title_and_text(style: str) -> None:
    system, user = Prompts().questions(Request((GUIDE,), style), 7)
    number = "a conversation of 3 turns" if style == "conversation" else "7 "
    assert f"Write {number}" in system["content"]
    assert '{"pairs": [{"question": "...", "answer": "..."}]}' in system["content"]
    assert "Write in the language of the passage." in system["content"]
    assert "$" not in system["content"]
    assert user["content"] == "Passage:\n\nGuide\nIt takes {braces} and $5 too."


def test_every_style_asks_for_something_else() -> None:
    found = {system_of(Prompts(), style) for style in [*STYLES, "unanswerable", "reading"]}
    assert len(found) == len(STYLES) + 2


def test_reading_exercises_are_asked_for_without_the_frame_of_questions() -> None:
    text = system_of(Prompts(), "reading", 4)
    assert text.startswith("Write 4 reading exercises about the passage")
    assert "search system" not in text


def test_language_and_turns_are_told() -> None:
    prompts = Prompts(language="German", turns=5)
    text = system_of(prompts, "conversation")
    assert "a conversation of 5 turns" in text
    assert "Write in German." in text
    for chat in (prompts.answer([GUIDE], "How?"), prompts.critic([GUIDE], "How?", "So.")):
        assert "$" not in chat[0]["content"]
    assert "Write in German." in prompts.answer([GUIDE], "How?")[0]["content"]


def test_two_passages_are_numbered() -> None:
    request = Request((OTHER, GUIDE), "multi-passage")
    assert Prompts().questions(request, 2)[-1]["content"] == (
        "Passage 1:\n\nAnother text.\n\nPassage 2:\n\nGuide\nIt takes {braces} and $5 too."
    )
    assert (request.source, request.passage_ids) == ("d", ("q", "p"))
    assert request.passages_sha256 == passage_sha256(OTHER.text, GUIDE.text)


def test_a_second_answer_is_asked_from_passages_turns_and_question_alone() -> None:
    history = [Turn("user", "What is it?"), Turn("assistant", "A guide.")]
    alone = Prompts().answer([OTHER], "How long?")[-1]["content"]
    assert alone == "Passage:\n\nAnother text.\n\nQuestion: How long?"
    later = Prompts().answer([OTHER], "How long?", history)[-1]["content"]
    assert later == (
        "Passage:\n\nAnother text.\n\nUser: What is it?\nAssistant: A guide.\nUser: How long?"
    )


def test_a_critic_sees_the_answer_too() -> None:
    system, user = Prompts().critic([OTHER], "How long?", "12 hours")
    assert "Judge three things" in system["content"]
    assert user["content"].endswith("Question: How long?\n\nAnswer: 12 hours")


def test_a_template_of_ones_own_replaces_that_of_the_same_name(tmp_path: Path) -> None:
    (tmp_path / "factoid.txt").write_text("$n riddles at $$5, please.\n")
    own = Prompts(tmp_path)
    assert "Write 7 riddles at $5, please.\n" in system_of(own)
    assert "training data for a search system" in system_of(own)
    assert system_of(own, "how-to") == system_of(Prompts(), "how-to")


def test_instructions_of_ones_own_are_the_frame_of_every_style(tmp_path: Path) -> None:
    (tmp_path / "instructions.txt").write_text("Frage in $language: $task")
    (tmp_path / "factoid.txt").write_text("$n Fakten")
    assert system_of(Prompts(tmp_path, language="Deutsch")) == "Frage in Deutsch: 7 Fakten"


def test_a_style_of_ones_own_is_a_template(tmp_path: Path) -> None:
    (tmp_path / "riddles.txt").write_text("$n riddles")
    prompts = Prompts(tmp_path)
    prompts.check(["riddles", "factoid"])
    assert "Write 7 riddles\n" in system_of(prompts, "riddles")


def test_a_style_without_template_is_told_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="styles: 'riddles' is none of factoid, how-to, .*FOLDER"):
        Prompts().check(["factoid", "riddles"])
    with pytest.raises(ConfigError, match=r"there is no .*riddles\.txt"):
        Prompts(tmp_path).check(["riddles"])


@pytest.mark.parametrize(
    ("text", "wrong"),
    [("$n $sttyle", r"\$sttyle"), ("$n at 5$", r"a lone \$"), ("$n for $task", r"\$task")],
)
def test_a_placeholder_that_nothing_fills_is_told_with_its_file(
    tmp_path: Path, text: str, wrong: str
) -> None:
    (tmp_path / "factoid.txt").write_text(text)
    message = rf"factoid\.txt: {wrong}: nothing fills it \(there are \$n, \$turns, \$language;"
    with pytest.raises(ConfigError, match=message):
        Prompts(tmp_path).check(["factoid"])


def test_examples_are_shown_as_turns_of_their_style_before_the_passage(tmp_path: Path) -> None:
    path = tmp_path / "show.jsonl"
    one = {"passage": "P1", "question": "Q1?", "answer": "A1"}
    write_jsonl(
        path,
        [
            {**one, "style": "factoid"},
            {**one, "style": "factoid", "question": "Q2?"},
            {**one, "style": "how-to"},
            {**one, "passage": "P2"},
        ],
    )
    prompts = Prompts(shown=read_examples_to_show(path))
    chat = prompts.questions(Request((GUIDE,), "factoid"), 2)
    assert [m["role"] for m in chat] == ["system", *("user", "assistant") * 2, "user"]
    said = [m["content"] for m in chat[1:5]]
    assert said[0] == "Passage:\n\nP2"  # those of every style first
    assert parse(said[1]) == [QuestionAnswer("Q1?", "A1")]
    assert said[2] == "Passage:\n\nP1"
    assert parse(said[3]) == [QuestionAnswer("Q1?", "A1"), QuestionAnswer("Q2?", "A1")]
    assert len(prompts.questions(Request((GUIDE,), "keyword"), 2)) == 4


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("5", "1: a JSON object was expected"),
        ('{"passage": "p", "question": "q"}', "1: answer: a string was expected"),
        ('{"passage": "p", "question": 5, "answer": "a"}', "1: question: a string"),
        ('{"passage": "p", "question": "q", "answer": "a", "x": 1}', "1: x: unknown field"),
        ('{"passage": "p"', "1: not JSON"),
        ("", "no examples in it"),
    ],
)
def test_examples_that_cannot_be_shown_are_told_with_their_line(
    tmp_path: Path, line: str, message: str
) -> None:
    (tmp_path / "show.jsonl").write_text(line)
    with pytest.raises(DataError, match=rf"show\.jsonl:? ?{message}"):
        read_examples_to_show(tmp_path / "show.jsonl")


@pytest.mark.parametrize(
    "response",
    [
        f'{{"pairs": [{PAIR}]}}',
        f"[{PAIR}]",
        f'```json\n{{"pairs": [{PAIR}]}}\n```',
        f'Here are the pairs:\n\n{{"pairs": [{PAIR}]}}\n\nI hope this helps!',
        '{"pairs": [{"question": " How long?\\n", "answer": " 12 hours "}]}',
        f'{{"notes": "none", "pairs": [{PAIR[:-1]}, "score": 5}}]}}',
        f'<think>First I try [{{"question": "No?"}}].</think>\n[{PAIR}]',
        f'So: {{"pairs": [{{"question": "No?"}}]}} is bad.\n</think>\n[{PAIR}]',
        f"[{PAIR}]\n<think>and on and on",
        f'As asked [1], in {{braces}}, [] and [2, 3]: {{"pairs": [{PAIR}]}}',
        PAIR,
    ],
    ids=["object", "list", "fence", "remarks", "spaces", "more-keys", "thought", "end-of-thought",
         "open-thought", "brackets", "one"],
)  # fmt: skip
def test_pairs_are_read_whatever_is_wrapped_around_them(response: str) -> None:
    assert parse(response) == WANTED


@pytest.mark.parametrize("answer", ["", ', "answer": null', ', "answer": true', ', "answer": []'])
def test_a_pair_without_an_answer_text_has_an_empty_one(answer: str) -> None:
    assert parse(f'{{"pairs": [{{"question": "How long?"{answer}}}]}}') == [
        QuestionAnswer("How long?", "")
    ]


def test_no_pairs_are_no_error() -> None:
    assert parse('{"pairs": []}') == []


def test_an_answer_that_is_cut_short_gives_its_whole_pairs_wherever_it_is_cut() -> None:
    pairs = [*WANTED, QuestionAnswer("Which of [1] and {2}?", "[3]"), QuestionAnswer("C?", "c")]
    whole = dump(pairs)
    ends = [whole.index("}", whole.index(end)) + 1 for end in ('"12 hours"', '"[3]"', '"c"')]
    for cut in range(ends[0], len(whole)):
        assert parse(whole[:cut]) == pairs[: sum(end <= cut for end in ends)]
    for cut in range(ends[0]):
        with pytest.raises(ValueError, match=r"no JSON|broken JSON"):
            parse(whole[:cut])


@pytest.mark.parametrize(
    ("response", "message"),
    [
        ("I cannot do that.", "no JSON"),
        ("", "no JSON"),
        ('{"pairs": [{"question": "cut o', "broken JSON"),
        ('{"questions": []}', "no list of pairs"),
        ('{"pairs": "none"}', "no list of pairs"),
        ("[1, 2]", "no list of pairs"),
        ('{"pairs": [{"answer": "12 hours"}]}', "pairs without a question"),
        ('{"pairs": [{"question": 5, "answer": "a"}]}', "pairs without a question"),
        ('{"pairs": ["How long?"]}', "pairs without a question"),
        ("[" * 3_000, "nested too deeply|broken JSON"),
        (f"<think>[{PAIR}] may do", "no JSON"),
    ],
)
def test_what_is_no_list_of_pairs_says_why(response: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(response)


def test_a_pair_that_is_none_costs_only_itself() -> None:
    said = '{"pairs": [{"answer": "lost"}, {"question": "Why?", "answer": "So."}, "How?"]}'
    assert parse(said) == [QuestionAnswer("Why?", "So.")]


def test_a_line_break_in_a_text_and_the_end_of_a_thought_are_read_as_they_are() -> None:
    assert parse('{"pairs": [{"question": "Why\nso?", "answer": "a\tb"}]}') == [
        QuestionAnswer("Why\nso?", "a\tb")
    ]
    pairs = [QuestionAnswer("What ends a thought?", "</think> does.")]
    assert parse(dump(pairs)) == parse(f"```json\n{dump(pairs)}\n```") == pairs
    assert parse(f"Hm [1].</think>{dump(WANTED)}") == WANTED


def test_half_a_character_does_not_get_into_a_pair() -> None:
    (pair,) = parse('[{"question": "Why \\ud83d?", "answer": "\\ude00 so"}]')
    assert (pair.question, pair.answer) == ("Why ??", "? so")


def test_what_is_dumped_is_read_back() -> None:
    pairs = [*WANTED, QuestionAnswer('Was heißt "größer"?', "} ] \n { [")]
    assert parse(dump(pairs)) == pairs


def test_remarks_with_brackets_before_the_json_do_not_hide_it() -> None:
    said = 'Sure [as asked], {thinking}: {"pairs": [{"question": "Why?", "answer": "So."}]}'
    assert parse(said) == [QuestionAnswer("Why?", "So.")]


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ('{"answer": " 12 hours "}', "12 hours"),
        ('Sure: ```{"answer": ""}```', ""),
        ('<think>{"answer": "no"}</think>{"answer": "yes"}', "yes"),
        ('{"note": 1} {"answer": "yes"}', "yes"),
        ('{"answer": 12}', "12"),
    ],
)
def test_a_second_answer_is_read(response: str, answer: str) -> None:
    assert parse_answer(response) == answer


@pytest.mark.parametrize("response", ["", "12 hours", '{"answer": [1]}', '{"answer": "12 ho'])
def test_what_is_no_second_answer_is_an_error(response: str) -> None:
    with pytest.raises(ValueError, match="no answer in the teacher's JSON"):
        parse_answer(response)


def test_a_verdict_is_read_with_or_without_a_reason() -> None:
    assert parse_verdict(f"My verdict: {json.dumps(VERDICT)}") == VERDICT
    without = {k: v for k, v in VERDICT.items() if k != "reason"}
    assert parse_verdict(json.dumps(without)) == {**without, "reason": ""}


def test_a_verdict_may_be_written_in_words() -> None:
    said = {"clear": "True", "answered": "no", "correct": "false", "reason": "vague"}
    expected = {"clear": True, "answered": False, "correct": False, "reason": "vague"}
    assert parse_verdict(json.dumps(said)) == expected


@pytest.mark.parametrize("change", [{"clear": "so"}, {"answered": 1}, {"correct": None}])
def test_a_verdict_without_three_judgements_is_an_error(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no judgement in the critic's JSON"):
        parse_verdict(json.dumps({**VERDICT, **change}))


@pytest.mark.parametrize("schema", [PAIRS_SCHEMA, ANSWER_SCHEMA, VERDICT_SCHEMA])
def test_schemas_are_as_strict_as_servers_want_them(schema: dict[str, Any]) -> None:
    def objects(value: Any) -> list[dict[str, Any]]:
        if not isinstance(value, dict):
            return []
        own = [value] if value.get("type") == "object" else []
        return own + [o for v in value.values() for o in objects(v)]

    for found in objects(schema):
        assert found["required"] == list(found["properties"])
        assert found["additionalProperties"] is False
