"""What ragkit writes as another format it reads again: equal in everything that both can hold."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragkit.data.formats import FORMATS, detect
from ragkit.data.formats.dataset import Chat, Dataset, Options
from ragkit.data.schema import Example, Passage, Turn

texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(str.strip)
names = st.text("abc:_-.1", min_size=1, max_size=6)
values = st.recursive(st.none() | st.booleans() | st.integers() | texts, st.lists)
metas = st.dictionaries(st.sampled_from(["page", "answerable", "url", "ids"]), values, max_size=2)
turns = st.builds(Turn, st.sampled_from(["user", "assistant"]), texts)


def distinct(ids: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(ids))


@st.composite
def datasets(draw: st.DrawFn) -> Dataset:
    """Passages with questions about them in two splits."""
    corpus = {
        key: Passage(key, draw(texts), draw(st.just("") | texts), draw(st.just("") | names),
                     draw(metas))
        for key in draw(st.lists(names, min_size=1, max_size=4, unique=True))
    }  # fmt: skip
    ids = st.lists(st.sampled_from(sorted(corpus)), max_size=2).map(distinct)
    questions = draw(st.lists(texts, min_size=2, max_size=5, unique=True))
    examples = [
        Example(
            f"q{i}",
            question,
            tuple(draw(st.lists(texts, max_size=2, unique=True))),
            draw(ids.filter(bool)),
            draw(ids),
            tuple(draw(st.lists(turns, max_size=2))),
            meta=draw(metas),
        )
        for i, question in enumerate(questions)
    ]
    return Dataset(corpus, {"train": examples[:-1], "test": examples[-1:]})


def again(name: str, dataset: Dataset) -> Dataset:
    """Write a dataset in a format, find the format, and read it."""
    with tempfile.TemporaryDirectory() as folder:
        FORMATS[name].write(Path(folder), dataset, Options())
        assert detect(Path(folder)) == name
        return FORMATS[name].read(Path(folder), Options())


@pytest.mark.parametrize("name", ["table", "beir"])
@given(dataset=datasets())
@settings(max_examples=40, deadline=None)
def test_tables_and_beir_lose_nothing(name: str, dataset: Dataset) -> None:
    copy = again(name, dataset)
    assert copy.corpus == dataset.corpus
    assert copy.splits == dataset.splits


@given(dataset=datasets())
@settings(max_examples=40, deadline=None)
def test_localrqa_keeps_questions_and_the_passages_that_they_name(dataset: Dataset) -> None:
    copy = again("localrqa", dataset)
    for split, examples in dataset.splits.items():
        assert [told(e) for e in copy.splits[split]] == [told(e) for e in examples]
    named = {i for e in dataset.examples for i in (*e.positive_ids, *e.negative_ids)}
    assert copy.corpus == {key: p for key, p in dataset.corpus.items() if key in named}


def told(example: Example) -> tuple[object, ...]:
    """Return an example without its id and meta."""
    return (
        example.question, example.answers, example.positive_ids, example.negative_ids,
        example.history,
    )  # fmt: skip


@given(dataset=datasets())
@settings(max_examples=40, deadline=None)
def test_dalm_keeps_texts_answers_positives_and_ids(dataset: Dataset) -> None:
    copy = again("dalm", dataset)
    assert copy.corpus == {key: Passage(key, p.text, p.title) for key, p in dataset.corpus.items()}
    for split, examples in dataset.splits.items():
        assert copy.splits[split] == [
            Example(e.id, e.question, e.answers, e.positive_ids) for e in examples
        ]


chats = st.lists(st.lists(turns, min_size=1, max_size=4).map(tuple), min_size=1, max_size=3)


@given(messages=chats)
@settings(max_examples=40, deadline=None)
def test_openchatkit_keeps_conversations(messages: list[tuple[Turn, ...]]) -> None:
    given = [Chat(f"c{i}", turns, {"url": i}) for i, turns in enumerate(messages)]
    assert again("openchatkit", Dataset(chats=given)).chats == given


@given(
    scores=st.dictionaries(
        names, st.dictionaries(names, st.integers(-4, 4).map(float), min_size=1), min_size=1
    )
)
@settings(max_examples=40, deadline=None)
def test_trec_keeps_scores_ties_and_the_order_of_lines(scores: dict[str, dict[str, float]]) -> None:
    qrels = {q: {p: int(s) for p, s in found.items()} for q, found in scores.items()}
    copy = again("trec", Dataset(qrels={"qrels": qrels}, runs={"run": scores}))
    assert (copy.qrels, copy.runs) == ({"qrels": qrels}, {"run": scores})
    assert [list(found) for found in copy.runs["run"].values()] == [*map(list, scores.values())]


def test_squad_keeps_spans_unanswerable_questions_and_the_ids_of_passages() -> None:
    corpus = {
        "p1": Passage("p1", "The pump starts at 5 volts.", "The Pump", "The_Pump"),
        "p2": Passage("p2", "The valve opens.", "Valve", "Valve"),
    }
    examples = [
        Example("q1", "When?", ("5 volts",), ("p1",), meta={"answer_starts": [19]}),
        Example("q2", "Why?", answerable=False, meta={"context_ids": ["p2"]}),
    ]
    copy = again("squad", Dataset(corpus, {"dev": examples}))
    assert (copy.corpus, copy.splits) == (corpus, {"dev": examples})


def test_chatrag_keeps_conversations_answers_and_passages_called_by_document_and_place() -> None:
    corpus = {f"d::{i}": Passage(f"d::{i}", text, "", "d") for i, text in enumerate(["a", "b"])}
    history = (Turn("user", "Hello"), Turn("assistant", "Yes?"))
    examples = [
        Example("q1", "And now?", ("one", "two"), ("d::1",), (), history, meta={"task": "x"}),
        Example("q2", "Which?", ("none",), meta={"context_document": "d"}),
    ]
    copy = again("chatrag", Dataset(corpus, {"test": examples}))
    assert (copy.corpus, copy.splits) == (corpus, {"test": examples})


LOSSES = {
    "table": [],
    "beir": [
        "BEIR does not hold which split a question without relevant passages is of: lost of "
        "1 question, which are in queries.jsonl.",
    ],
    "localrqa": [
        "LocalRQA has no unanswerable questions: 1 question left out.",
        "1 question with several answers became a line of each answer.",
        "LocalRQA does not hold ids of questions: lost of 2 questions.",
        "LocalRQA's files have only the passages of questions: 1 passage that no question names "
        "left out.",
    ],
    "dalm": [
        "DALM does not hold negative_ids: lost of 1 question.",
        "DALM does not hold history: lost of 1 question.",
        "DALM does not hold doc_id: lost of 2 passages.",
        "DALM's rows are a question with its passage: 1 question without a passage left out.",
        "2 questions became 4 rows: one for each passage and answer. To DALM they are different "
        "questions; their question_id is the same.",
        "DALM does not hold the meta of questions: lost are context_ids (1).",
        "DALM does not hold the meta of passages: lost are page (1).",
    ],
    "squad": [
        "SQuAD does not hold positive_ids after the first: lost of 1 question.",
        "SQuAD does not hold negative_ids: lost of 1 question.",
        "SQuAD does not hold history: lost of 1 question.",
        "SQuAD has one name for an article: lost is the title or the doc_id of 2 passages.",
        "SQuAD does not hold the meta of passages: lost are page (1).",
    ],
    "chatrag": [
        "ChatRAG-Bench's questions are about a document: 1 question without a passage left out.",
        "ChatRAG-Bench does not hold positive_ids after the first: lost of 1 question.",
        "ChatRAG-Bench does not hold negative_ids: lost of 1 question.",
        "ChatRAG-Bench has no titles: of 2 passages it is the first line of the chunk now.",
        "ChatRAG-Bench names passages by their document and place: 3 ids lost.",
        "ChatRAG-Bench does not hold the meta of passages: lost are page (1).",
    ],
    "openchatkit": [
        "1 question without an answer left out.",
        "OpenChatKit's text has no passages: 3 passages left out.",
        "OpenChatKit does not hold answers after the first: lost of 1 question.",
        "OpenChatKit does not hold positive_ids: lost of 2 questions.",
        "OpenChatKit does not hold negative_ids: lost of 1 question.",
        "OpenChatKit does not hold that it is unanswerable: lost of 1 question.",
        "OpenChatKit does not hold the meta of questions: lost are context_ids (1).",
    ],
    "trec": [
        "TREC's files hold ids and numbers: the texts of 3 questions and 3 passages left out.",
        "No line of 1 question without positives.",
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_what_a_format_cannot_hold_is_said(name: str, dataset: Dataset, tmp_path: Path) -> None:
    assert FORMATS[name].write(tmp_path, dataset, Options()) == LOSSES[name]
