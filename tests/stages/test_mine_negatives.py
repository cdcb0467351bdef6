"""mine-negatives: examples with hard negatives, beside the corpus and dev set they go with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ragkit.config.blocks import Reranker as Options
from ragkit.data.files import read_corpus, read_examples, read_json, read_jsonl, write_jsonl
from ragkit.errors import ConfigError, DataError, RunError
from ragkit.models.reranker import Reranker
from ragkit.retrieval import index
from ragkit.retrieval.bm25 import Bm25Searcher
from ragkit.stages import mine_negatives

TOPICS = ["fuse", "relay", "valve", "pump", "sensor", "battery", "cable", "display"]
TWIN = "fuse-twin"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of examples, their dev set, and a corpus with a near-duplicate of a positive."""
    folder = tmp_path / "data"
    text = "The {} holds twelve volts when the green light is on and the alarm stops."
    passages = [{"id": t, "text": text.format(t)} for t in TOPICS]
    passages = [{**p, "text": f"{p['text']} {t} {t} update log {t}"} for p, t in
                zip(passages, TOPICS, strict=True)]  # fmt: skip
    twin = {"id": TWIN, "text": passages[0]["text"].replace("The fuse", "A fuse")}
    write_jsonl(folder / "corpus.jsonl", [*passages, twin])
    examples = [
        {"id": f"q-{t}", "question": f"what volts does the {t} hold", "positive_ids": [t]}
        for t in TOPICS[:5]
    ]
    examples.append({**examples[0], "id": "q-again", "positive_ids": ["relay"]})
    examples.append({"id": "q-none", "question": "who is it", "answerable": False})
    write_jsonl(folder / "train.jsonl", examples)
    write_jsonl(folder / "dev.jsonl", examples[3:5])
    return folder


@pytest.fixture
def values(data: Path, tmp_path: Path, tiny_encoder: Path) -> dict[str, Any]:
    return {
        "examples": str(data / "train.jsonl"),
        "model": str(tiny_encoder),
        "output": str(tmp_path / "run"),
    }


def without_negatives(path: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if k != "negative_ids"} for r in read_jsonl(path)]


@pytest.mark.parametrize("first_stage", ["dense", "bm25", "fused"])
def test_every_example_is_kept_and_gets_passages_that_do_not_answer_it(
    stage: Callable[..., Path], values: dict[str, Any], data: Path, first_stage: str
) -> None:
    path = stage("mine-negatives", **values, first_stage=first_stage, n=3, max_share=None)
    corpus = read_corpus(data / "corpus.jsonl")
    assert without_negatives(path / "train.jsonl") == read_jsonl(data / "train.jsonl")
    mined = {e.id: e for e in read_examples(path / "train.jsonl", corpus)}
    for example in mined.values():
        assert len(set(example.negative_ids)) == len(example.negative_ids)
        assert len(example.negative_ids) == (3 if example.answerable else 0)
        assert not set(example.negative_ids) & set(example.positive_ids)
    # the same question has another positive elsewhere
    assert "relay" not in mined["q-fuse"].negative_ids
    assert "fuse" not in mined["q-again"].negative_ids
    assert TWIN not in mined["q-fuse"].negative_ids


def test_negatives_by_rank_are_the_first_of_the_first_stage(
    stage: Callable[..., Path], values: dict[str, Any], data: Path
) -> None:
    path = stage("mine-negatives", **values, first_stage="bm25", n=2, max_share=None)
    corpus = read_corpus(data / "corpus.jsonl")
    for example in read_examples(path / "train.jsonl")[1:5]:
        (ranking,) = Bm25Searcher(corpus).search([example.question], 50)
        expected = [p for p in ranking if p not in example.positive_ids][:2]
        assert list(example.negative_ids) == expected


def test_the_account_says_what_was_dropped_and_who_has_too_few(
    stage: Callable[..., Path], values: dict[str, Any]
) -> None:
    path = stage("mine-negatives", **values, n=7, max_share=None)
    report = read_json(path / "mining.json")
    mined = read_examples(path / "train.jsonl")
    assert report["examples"] == 7
    assert report["negatives"] == sum(len(e.negative_ids) for e in mined)
    # nine passages: two positives and the twin of one are not for the question asked twice
    assert report["dropped_candidates"] == {
        "a positive of this question": 2 * 2 + 4,
        "a near-duplicate of a positive": 2,
    }
    assert {few["id"]: few["negatives"] for few in report["too_few"]} == {"q-fuse": 6, "q-again": 6}
    assert report["too_few"][0]["lost"]["a positive of this question"] == 2
    assert report["examples_without_positives"] == 1
    assert report["examples_with_too_few"] == 2


def test_candidates_nearer_than_the_share_are_dropped(
    stage: Callable[..., Path], values: dict[str, Any]
) -> None:
    path = stage("mine-negatives", **values, n=7, max_share=0.0001)
    report = read_json(path / "mining.json")
    assert report["dropped_candidates"]["too near to the question"] > 0
    assert report["examples_with_too_few"] == 6
    assert len(read_examples(path / "train.jsonl")) == 7


def test_a_sample_depends_on_the_seed_alone(
    stage: Callable[..., Path], values: dict[str, Any], tmp_path: Path
) -> None:
    found = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        values |= {"output": str(tmp_path / name), "seed": seed, "max_share": None}
        path = stage("mine-negatives", **values, pick="sample", n=3)
        found.append((path / "train.jsonl").read_bytes())
    assert found[0] == found[1] != found[2]


def test_corpus_and_dev_set_are_beside_the_mined_examples(
    stage: Callable[..., Path], values: dict[str, Any], data: Path
) -> None:
    path = stage("mine-negatives", **values)
    for name in ("corpus.jsonl", "dev.jsonl"):
        assert (path / name).read_bytes() == (data / name).read_bytes()


def test_without_a_dev_set_none_is_made(
    stage: Callable[..., Path], values: dict[str, Any], data: Path
) -> None:
    (data / "dev.jsonl").unlink()
    assert not (stage("mine-negatives", **values) / "dev.jsonl").exists()


def test_a_dev_set_that_changed_is_not_passed_off_as_done(
    stage: Callable[..., Path], values: dict[str, Any], data: Path
) -> None:
    path = stage("mine-negatives", **values)
    write_jsonl(data / "dev.jsonl", read_jsonl(data / "dev.jsonl")[:1])
    with pytest.raises(RunError, match=r"dev\.jsonl has changed"):
        stage("mine-negatives", **values)
    assert len(read_jsonl(path / "dev.jsonl")) == 2


def test_an_unknown_positive_is_named_with_its_line(
    stage: Callable[..., Path], values: dict[str, Any], data: Path
) -> None:
    write_jsonl(data / "train.jsonl", [{"id": "a", "question": "who", "positive_ids": ["lamp"]}])
    with pytest.raises(DataError, match=r"train\.jsonl:1: positive_ids: unknown passage 'lamp'"):
        stage("mine-negatives", **values)


def test_candidates_with_the_answer_are_dropped_and_can_be_read(
    stage: Callable[..., Path], values: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    examples = read_jsonl(data / "train.jsonl")
    examples[1]["answers"] = ["pump update log"]  # of the passage `pump`, which is no positive
    write_jsonl(data / "train.jsonl", examples)
    values |= {"n": 8, "max_share": None}
    path = stage("mine-negatives", **values)
    assert read_json(path / "mining.json")["dropped_candidates"]["contains the answer"] == 1
    told = {r["id"]: r["dropped"] for r in read_jsonl(path / "dropped.jsonl")}
    assert told["q-relay"] == {"contains the answer": ["pump"]}
    assert told["q-fuse"] == {"a near-duplicate of a positive": [TWIN]}
    assert set(told) == {"q-relay", "q-fuse", "q-again"}
    off = stage("mine-negatives", **values | {"output": f"{path}-off"}, same_answer=False)
    mined = {e.id: e for e in read_examples(off / "train.jsonl")}
    assert "pump" in mined["q-relay"].negative_ids


def test_a_reranker_leaves_raw_scores_of_positives_and_negatives(
    stage: Callable[..., Path], values: dict[str, Any], data: Path, tiny_reranker: Path
) -> None:
    margin = {"model": str(tiny_reranker), "margin": 0.05}
    path = stage("mine-negatives", **values, n=4, max_share=None, reranker=margin)
    corpus = read_corpus(data / "corpus.jsonl")
    reranker = Reranker.load(Options(model=str(tiny_reranker)))
    for example in read_examples(path / "train.jsonl", corpus):
        named = [*example.positive_ids, *example.negative_ids]
        assert list(example.scores) == named
        plain = reranker.score([(example.question, corpus[i].rendered) for i in named])
        assert list(example.scores.values()) == pytest.approx(plain, abs=1e-5)
        lowest = min((example.scores[i] for i in example.positive_ids), default=0.0)
        assert all(example.scores[i] <= lowest - 0.05 for i in example.negative_ids)
    report = read_json(path / "mining.json")
    assert report["dropped_candidates"]["too high by the reranker"] > 0
    assert report["too_few_because"] == {
        "too high by the reranker": report["examples_with_too_few"]
    }
    assert "what cost these the most" in str(mine_negatives.show(path))


def test_an_interrupted_run_does_not_score_or_encode_again(
    stage: Callable[..., Path],
    values: dict[str, Any],
    tiny_reranker: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values |= {"n": 4, "reranker": {"model": str(tiny_reranker), "margin": None}}
    whole = stage("mine-negatives", **values | {"output": values["output"] + "-whole"})

    def broken(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mine_negatives, "write_passages", broken)
        with pytest.raises(KeyboardInterrupt):
            stage("mine-negatives", **values)
    monkeypatch.setattr(index, "build_index", broken)
    monkeypatch.setattr(Reranker, "score", lambda *_: broken())
    path = stage("mine-negatives", **values)
    assert (path / "train.jsonl").read_bytes() == (whole / "train.jsonl").read_bytes()


def test_another_margin_costs_no_scoring(
    stage: Callable[..., Path],
    values: dict[str, Any],
    tiny_reranker: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reranker: dict[str, Any] = {"model": str(tiny_reranker), "margin": 0.05}
    values["max_share"] = None
    path = stage("mine-negatives", **values, n=4, reranker=reranker)
    first = read_json(path / "mining.json")["negatives"]

    def score(_: object, pairs: list[tuple[str, str]]) -> list[float]:
        assert not pairs
        return []

    monkeypatch.setattr(Reranker, "score", score)
    reranker["margin"] = None
    path = stage("mine-negatives", restart=True, **values, n=4, reranker=reranker)
    assert read_json(path / "mining.json")["negatives"] > first


def test_an_index_that_is_given_is_used_and_another_models_is_refused(
    stage: Callable[..., Path],
    values: dict[str, Any],
    data: Path,
    tmp_path: Path,
    tiny_encoder: Path,
) -> None:
    corpus, out = str(data / "corpus.jsonl"), str(tmp_path / "vectors")
    vectors = stage("index", corpus=corpus, model=str(tiny_encoder), output=out)
    plain = stage("mine-negatives", **values | {"output": str(tmp_path / "plain")})
    path = stage("mine-negatives", **values, index=str(vectors))
    assert not (path / "index").exists()
    assert (path / "train.jsonl").read_bytes() == (plain / "train.jsonl").read_bytes()
    values |= {"output": str(tmp_path / "other"), "encoder": {"pooling": "cls"}}
    with pytest.raises(DataError, match="the index was made with another model"):
        stage("mine-negatives", **values, index=str(vectors))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 5, "skip_top": 5}, "skip_top: 5 leaves nothing of depth: 5"),
        ({"first_stage": "bm25", "max_share": None, "index": "."}, "index: nothing reads it"),
    ],
)
def test_settings_that_do_nothing_are_refused(
    stage: Callable[..., Path], values: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        stage("mine-negatives", **values, **change)


def test_a_conversation_is_searched_and_rescored_with_its_history(
    stage: Callable[..., Path],
    values: dict[str, Any],
    data: Path,
    tiny_reranker: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns = [{"role": "user", "content": "tell me of the pump"}]
    example = {"id": "c", "question": "when", "positive_ids": ["fuse"], "history": turns}
    write_jsonl(data / "train.jsonl", [example])
    asked: list[str] = []

    def score(_: object, pairs: list[tuple[str, str]]) -> list[float]:
        asked.extend(query for query, _ in pairs)
        return [0.0] * len(pairs)

    monkeypatch.setattr(Reranker, "score", score)
    values |= {"first_stage": "bm25", "n": 1, "max_share": None}
    path = stage("mine-negatives", **values, reranker={"model": str(tiny_reranker), "margin": None})
    assert set(asked) == {"tell me of the pump\nwhen"}
    assert read_examples(path / "train.jsonl")[0].negative_ids == ("pump",)


def test_a_bad_dev_set_is_told_before_the_work(
    stage: Callable[..., Path],
    values: dict[str, Any],
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with (data / "dev.jsonl").open("a") as f:
        f.write("{}\n")
    with monkeypatch.context() as patch:
        patch.delattr(mine_negatives.Encoder, "load")
        with pytest.raises(DataError, match=r"dev\.jsonl:3: question: missing"):
            stage("mine-negatives", **values)
    path = stage("mine-negatives", **values, skip_bad=True, restart=True)
    assert len(read_examples(path / "dev.jsonl")) == 2
