"""Rankings that are found once: by everything that decides them, and by nothing else."""

from pathlib import Path
from typing import Any

import pytest

from ragkit.config.blocks import Bm25, Dense, Fused, Retriever
from ragkit.data.schema import Example, Passage, Turn
from ragkit.errors import DataError
from ragkit.retrieval import rankings as module
from ragkit.retrieval.rankings import Rankings

CORPUS = {
    key: Passage(key, text)
    for key, text in {"a": "the pump stops", "b": "the valve opens", "c": "the fuse holds"}.items()
}
EXAMPLES = [Example("1", "which valve"), Example("2", "what of the fuse")]
WORDS = Bm25(type="bm25")


def rankings(
    retriever: Retriever,
    examples: list[Example],
    corpus: dict[str, Passage],
    depth: int,
    folder: Path,
) -> dict[str, list[str]]:
    return Rankings(retriever, corpus, folder).of(examples, depth)


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[Retriever]:
    """The retrievers that were built."""
    built: list[Retriever] = []
    inner = module.build_searcher

    def build(config: Retriever, *rest: Any) -> Any:
        built.append(config)
        return inner(config, *rest)

    monkeypatch.setattr(module, "build_searcher", build)
    return built


def test_what_was_found_is_not_searched_for_again(
    tmp_path: Path, searched: list[Retriever]
) -> None:
    first = rankings(WORDS, EXAMPLES, CORPUS, 2, tmp_path)
    assert first["1"][0] == "b" and first["2"][0] == "c"
    # the ids of examples are not what is searched for
    again = rankings(WORDS, [Example("x", "which valve"), EXAMPLES[1]], CORPUS, 2, tmp_path)
    assert again == {"x": first["1"], "2": first["2"]}
    assert len(searched) == 1


def test_whatever_decides_a_ranking_makes_another(
    tmp_path: Path, searched: list[Retriever], tiny_encoder: Path
) -> None:
    dense = Dense(type="dense", model=str(tiny_encoder))
    told = EXAMPLES[0]
    talk = Example("1", told.question, history=(Turn("user", "the pump"),))
    changed = {**CORPUS, "a": Passage("a", "the pump starts")}
    rankings(WORDS, EXAMPLES, CORPUS, 2, tmp_path)
    rankings(WORDS, EXAMPLES, CORPUS, 3, tmp_path)
    rankings(WORDS, EXAMPLES, changed, 2, tmp_path)
    rankings(WORDS, [talk, EXAMPLES[1]], CORPUS, 2, tmp_path)
    rankings(WORDS.model_copy(update={"k1": 0.5}), EXAMPLES, CORPUS, 2, tmp_path)
    rankings(dense, EXAMPLES, CORPUS, 2, tmp_path)
    prefixed = dense.model_copy(
        update={"encoder": dense.encoder.model_copy(update={"query_prefix": "query: "})}
    )
    rankings(prefixed, EXAMPLES, CORPUS, 2, tmp_path)
    rankings(Fused(type="fused", dense=dense), EXAMPLES, CORPUS, 2, tmp_path)
    assert len(searched) == 8
    on_cpu = dense.model_copy(
        update={"encoder": dense.encoder.model_copy(update={"device": "cpu"})}
    )
    rankings(on_cpu, EXAMPLES, CORPUS, 2, tmp_path)
    assert len(searched) == 8


def test_a_retriever_is_built_once_for_several_files(
    tmp_path: Path, searched: list[Retriever]
) -> None:
    found = Rankings(WORDS, CORPUS, tmp_path)
    found.of(EXAMPLES[:1], 2)
    found.of(EXAMPLES[1:], 2)
    assert len(searched) == 1


def test_a_file_of_another_ranking_is_refused(tmp_path: Path) -> None:
    rankings(WORDS, EXAMPLES, CORPUS, 2, tmp_path)
    (file,) = tmp_path.glob("*.json")
    file.write_text('{"key": "another", "passages": []}')
    with pytest.raises(DataError, match="not the rankings that its name says"):
        rankings(WORDS, EXAMPLES, CORPUS, 2, tmp_path)
