"""chunk: documents into passages, read and written as a stream, and the near-duplicates of them."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ragkit.config.blocks import Chunking
from ragkit.data.files import read_jsonl
from ragkit.data.schema import Document
from ragkit.errors import DataError
from ragkit.stages import STAGES, chunk

TEXT = "The pump starts when the valve opens and stops when the tank is full. It needs no oil."


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    changed = TEXT.replace("no oil", "no grease")
    lines = ["id,text", f"a,{TEXT}", f"b,{TEXT} Use 12 V.", "c,Alone.", f"d,{changed}"]
    lines += [f"e,{TEXT} Use 24 V.", f"f,{TEXT}", f"a,{TEXT}"]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_near_duplicates_are_written_in_groups_and_told(
    stage: Callable[..., Path], rows: Path, tmp_path: Path, word_model: Path
) -> None:
    values = {"input": str(rows), "chunk": {"tokenizer": str(word_model)}}
    path = stage("chunk", **values, output=str(tmp_path / "run"))
    assert [p["id"] for p in read_jsonl(path / "passages.jsonl")] == ["a", "b", "c", "d", "e", "f"]
    assert read_jsonl(path / "near-duplicates.jsonl") == [{"ids": ["a", "d", "f"]}]
    assert str(STAGES["chunk"].load().show(path)).splitlines() == [
        f"6 passages of 1 to 21 words (median 18) in {path / 'passages.jsonl'}",
        f"near-duplicates: 3 passages, groups: 1, in {path / 'near-duplicates.jsonl'}",
    ]


@pytest.mark.parametrize("chunked", [True, False])
def test_passages_come_before_all_documents_were_read(chunked: bool, word_model: Path) -> None:
    taken = 0

    def documents() -> Iterator[Document]:
        nonlocal taken
        for taken in itertools.count(1):
            yield Document(f"Text {taken}.", doc_id=f"d{taken}", where=f"x.csv:{taken}")

    chunking = Chunking(tokenizer=str(word_model)) if chunked else None
    passages = chunk.cut(documents(), chunking)
    assert [next(passages).text for _ in range(3)] == ["Text 1.", "Text 2.", "Text 3."]
    assert taken <= 4


def test_a_row_that_is_wrong_leaves_no_half_of_the_passages(
    stage: Callable[..., Path], rows: Path, tmp_path: Path, word_model: Path
) -> None:
    rows.write_text(rows.read_text() + "x\n")
    values = {"input": str(rows), "chunk": {"tokenizer": str(word_model)}}
    with pytest.raises(DataError, match=r"rows\.csv:9: 1 cells"):
        stage("chunk", **values, output=str(tmp_path / "run"))
    assert not (tmp_path / "run" / "passages.jsonl").exists()
