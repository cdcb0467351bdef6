"""Foreign files: what is read from them, and the one message for each way they are wrong."""

from collections.abc import Callable
from datetime import date
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from ragkit.config.blocks import Columns
from ragkit.data.documents import read_documents
from ragkit.data.files import read_jsonl
from ragkit.data.schema import Document
from ragkit.errors import DataError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, so that messages have short names in them."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(data: str | bytes, name: str = "x.csv", **more: object) -> list[Document]:
    path = Path(name)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    columns = more.pop("columns", Columns())
    return list(read_documents(path, columns, **more))  # type: ignore[arg-type]


def refused(data: str | bytes, name: str = "x.csv", **more: object) -> str:
    with pytest.raises(DataError) as caught:
        read(data, name, **more)
    return str(caught.value)


@pytest.mark.usefixtures("folder")
class TestCsv:
    def test_usual_columns_are_found_told_and_the_rest_is_kept(self, log_lines: list[str]) -> None:
        text = "ID,Heading,Body,url,price\n7,Hi,Text.,http://a,3\n"
        assert read(text) == [
            Document("Text.", "Hi", id="7", doc_id="http://a", where="x.csv:2", meta={"price": "3"})
        ]
        assert log_lines == ["x.csv:1: text = Body, title = Heading, id = ID, doc_id = url"]

    def test_named_columns_win_over_the_usual_ones(self) -> None:
        columns = Columns(text="b", title="c", section="d")
        [document] = read("text,b,c,d\nold,new,T,S\n", columns=columns)
        assert (document.text, document.heading, document.meta) == ("new", "T > S", {"text": "old"})

    def test_an_empty_file_is_told(self) -> None:
        assert refused("") == "x.csv: the file is empty"
        assert refused("\n  \n") == "x.csv: the file is empty"

    def test_a_header_without_rows_is_told(self) -> None:
        assert refused("id,text\n") == "x.csv: a header and no rows"

    def test_a_missing_text_column_names_the_columns_there_are_and_what_to_do(self) -> None:
        assert refused("id,titel,inhalt\n1,a,b\n") == (
            "x.csv:1: no column for the text; there are id, titel, inhalt. "
            "Name it: --set columns.text=NAME"
        )

    def test_a_named_column_that_is_not_there_names_those_that_are(self) -> None:
        message = refused("id,text\n1,a\n", columns=Columns(title="Titel"))
        assert message == "x.csv:1: columns.title: no column 'Titel'; there are id, text"

    def test_latin_1_bytes_are_told_with_line_and_what_to_do(self) -> None:
        assert refused("id,text\n1,a\n2,Grüße\n".encode("latin-1")) == (
            "x.csv:3: byte 0xfc is not UTF-8; save the file as UTF-8, or name its encoding "
            "(--set encoding=cp1252)"
        )

    def test_the_same_bytes_are_read_with_their_encoding_named(self) -> None:
        [document] = read("id,text\n1,Grüße für 5 €\n".encode("cp1252"), encoding="cp1252")
        assert document.text == "Grüße für 5 €"

    def test_a_byte_order_mark_does_not_hide_the_first_column(self) -> None:
        assert read("\ufeffid,text\n1,a\n")[0].id == "1"

    @pytest.mark.parametrize("mark", [";", "\t", ","])
    def test_the_delimiter_is_seen_in_the_header(self, mark: str) -> None:
        text = f'id{mark}text\n1{mark}"a, b; c\td"\n'
        assert [(d.id, d.text) for d in read(text)] == [("1", "a, b; c\td")]

    def test_a_tsv_is_cut_at_tabs_whatever_its_header_has(self) -> None:
        [document] = read("a,b\ttext\n1,2\tx\n", "x.tsv")
        assert (document.text, document.meta) == ("x", {"a,b": "1,2"})

    def test_quotes_and_newlines_inside_cells_are_kept(self) -> None:
        text = 'id,text\r\n1,"He said ""no"",\r\ntwice"\r\n2,b\r\n'
        assert [d.text for d in read(text)] == ['He said "no",\r\ntwice', "b"]

    def test_lines_are_counted_in_the_file_not_in_rows(self) -> None:
        text = 'id,text\n1,"a\nb\nc"\n\n2,d\n'
        assert [d.where for d in read(text)] == ["x.csv:2", "x.csv:6"]

    def test_an_unclosed_quote_is_told_with_the_line_it_opens_in(self) -> None:
        message = refused('id,text\n1,a\n2,"b\n3,c\n4,d\n')
        assert message == "x.csv:3: not CSV: unexpected end of data (an unclosed quote?)"

    def test_text_after_a_closing_quote_is_told(self) -> None:
        assert refused('id,text\n1,"a" b\n').startswith("x.csv:2: not CSV:")

    def test_an_unclosed_quote_in_the_header_is_told(self) -> None:
        assert refused('id,"text\n1,a\n').startswith("x.csv:1: not CSV:")

    def test_a_cell_of_five_megabytes_is_told_with_its_size_and_what_to_do(self) -> None:
        assert refused(f"id,text\n1,a\n2,{'x' * 5_000_000}\n") == (
            "x.csv:3: text: 5,000,000 characters in one cell, over max_cell_chars (1,000,000): "
            "an unclosed quote? (--set max_cell_chars=... accepts it)"
        )

    def test_a_cell_of_five_megabytes_is_read_where_it_is_allowed(self) -> None:
        [document] = read(f"id,text\n1,{'x' * 5_000_000}\n", max_cell_chars=5_000_000)
        assert len(document.text) == 5_000_000

    def test_all_rows_that_are_wrong_are_told_at_once(self) -> None:
        assert refused("id,text\n1\n2,b\na b,c\n3, \n4,d,e\n").splitlines() == [
            "x.csv:2: 1 cells where the header has 2",
            "x.csv:4: id: 'a b' has white space in it",
            "x.csv:5: text: empty",
            "x.csv:6: 3 cells where the header has 2",
        ]

    def test_skip_bad_sets_rows_aside_and_counts_them(
        self, folder: Path, log_lines: list[str]
    ) -> None:
        text = f"id,text\n1\n2,b\n3,{'x' * 2000}\n"
        aside = folder / "bad-lines.jsonl"
        assert [d.id for d in read(text, skip_bad=aside, max_cell_chars=1000)] == ["2"]
        found = read_jsonl(aside)
        assert [r["line"] for r in found] == [2, 4]
        assert len(found[1]["text"]) <= 1000
        assert log_lines[-1] == f"x.csv: bad lines set aside: 2, in {aside}"

    def test_rows_are_given_before_the_file_was_read_to_its_end(self) -> None:
        path = Path("x.csv")
        path.write_text("id,text\n1,a\n2\n3,c\n")
        documents = read_documents(path, Columns())
        assert [next(documents).id, next(documents).id] == ["1", "3"]
        with pytest.raises(DataError, match=r"^x\.csv:3: 1 cells where the header has 2$"):
            next(documents)

    def test_a_cell_without_end_is_told_before_it_fills_the_memory(self) -> None:
        assert refused('id,text\n1,"' + "x y\n" * 4_500_000) == (
            "x.csv:2: not CSV: field larger than field limit (16777216) (an unclosed quote?)"
        )

    @pytest.mark.parametrize("encoding", ["utf-8", "shift_jis"])
    def test_a_byte_far_below_that_is_not_of_the_encoding_is_told_with_its_line(
        self, encoding: str
    ) -> None:
        rows = "".join(f"{i},ポンプ {i}\n" for i in range(20_000)).encode(encoding)
        message = refused(b"id,text\n" + rows + b"x,\xff\n" + rows, encoding=encoding)
        assert message.startswith(f"x.csv:20002: byte 0xff is not {encoding.upper()}; save")

    def test_a_file_that_ends_inside_a_character_is_told_with_its_line(self) -> None:
        message = refused("id,text\n1,a\n2,ü".encode()[:-1])
        assert message.startswith("x.csv:3: byte 0xc3 is not UTF-8;")

    def test_two_columns_of_one_name_are_told(self) -> None:
        assert refused("id,text,text\n1,a,b\n").startswith("x.csv:1: two columns")


@pytest.mark.usefixtures("folder")
class TestJsonl:
    def test_fields_are_found_by_their_usual_names_and_meta_is_taken_in(self) -> None:
        line = '{"_id": 3, "title": "T", "text": "x", "n": 1, "meta": {"k": [2]}, "e": null}\n'
        assert read(line, "x.jsonl") == [
            Document("x", "T", id="3", where="x.jsonl:1", meta={"n": 1, "k": [2]})
        ]

    def test_all_lines_that_are_wrong_are_told_at_once(self) -> None:
        message = refused('{"text": "x"}\n{"text": 3}\n[]\n{oh\n', "x.jsonl")
        assert message.splitlines() == [
            "x.jsonl:2: text: a string was expected",
            "x.jsonl:3: a JSON object was expected",
            "x.jsonl:4: not JSON: Expecting property name enclosed in double quotes (column 2)",
        ]

    def test_no_field_for_the_text_names_those_there_are(self) -> None:
        message = refused('{"inhalt": "x"}\n', "x.jsonl")
        assert "no column for the text; there are inhalt." in message

    def test_a_title_that_only_later_records_have_is_a_title(self) -> None:
        text = '{"id": "a", "text": "x"}\n{"id": "b", "text": "y", "title": "T"}\n'
        assert [d.title for d in read(text, "x.jsonl")] == ["", "T"]

    def test_a_name_that_only_records_below_the_hundredth_have_is_meta(self) -> None:
        text = '{"text": "x"}\n' * 100 + '{"text": "y", "title": "T"}\n'
        found = read(text, "x.jsonl")
        assert [(d.title, d.meta) for d in found[99:]] == [("", {}), ("", {"title": "T"})]

    def test_an_id_with_white_space_is_told_with_its_line(self) -> None:
        assert refused('{"id": "a b", "text": "x"}\n', "x.jsonl") == (
            "x.jsonl:1: id: 'a b' has white space in it"
        )

    def test_an_empty_text_is_told_as_in_a_csv(self) -> None:
        message = refused('{"id": "a", "text": "x"}\n{"id": "b", "text": ""}\n', "x.jsonl")
        assert message == "x.jsonl:2: text: empty"

    def test_the_named_encoding_is_used(self) -> None:
        raw = '{"text": "Grüße"}\n'.encode("cp1252")
        assert read(raw, "x.jsonl", encoding="cp1252")[0].text == "Grüße"


@pytest.mark.usefixtures("folder")
class TestFolders:
    def test_every_known_file_of_a_folder_is_read_in_the_order_of_names(
        self, folder: Path, log_lines: list[str]
    ) -> None:
        (folder / "docs" / "deep").mkdir(parents=True)
        (folder / "docs" / "b.txt").write_text("B")
        (folder / "docs" / "deep" / "a.MD").write_text("# A\ntext")
        (folder / "docs" / "photo.png").write_bytes(b"\x89PNG")
        (folder / "docs" / "empty.txt").write_text(" \n")
        found = list(read_documents(Path("docs"), Columns()))
        assert [(d.doc_id, d.title, d.markup) for d in found] == [
            ("b.txt", "b", "plain"),
            ("deep/a.MD", "a", "markdown"),
        ]
        assert "docs: 1 files of other kinds left out" in log_lines
        assert "docs/empty.txt: empty, left out" in log_lines

    def test_a_folder_with_nothing_to_read_is_told(self, folder: Path) -> None:
        (folder / "docs").mkdir()
        with pytest.raises(DataError, match=r"^docs: no file that can be read \(\.csv"):
            list(read_documents(Path("docs"), Columns()))

    def test_a_kind_of_file_that_is_not_known_is_told_with_those_that_are(self) -> None:
        message = refused("x", "x.xlsx")
        assert message.startswith("x.xlsx: cannot read .xlsx; known are .csv, .tsv, .jsonl")

    def test_a_text_file_with_nothing_in_it_is_told(self) -> None:
        assert refused(" \n", "x.txt") == "x.txt: no text in it"

    def test_a_file_that_is_not_there_is_told(self) -> None:
        with pytest.raises(DataError, match=r"^none\.csv: No such file"):
            list(read_documents(Path("none.csv"), Columns()))


def test_hidden_folders_and_run_directories_are_not_documents(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("A page.")
    for folder, name in ((".venv", "readme.md"), ("runs/chunk-1", "log.txt")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / name).write_text("not a page")
    (tmp_path / "runs" / "chunk-1" / "run.json").write_text("{}")
    assert [d.text for d in list(read_documents(tmp_path, Columns()))] == ["A page."]


def test_a_folder_of_pages_gives_documents_that_know_markup_title_and_page(
    tmp_path: Path, docx: Callable[..., Path], pdf: Callable[..., Path]
) -> None:
    (tmp_path / "a.html").write_text("<title>Fuses</title><h2>Slow</h2><p>A slow one.</p>")
    (tmp_path / "b.rst").write_text("Relays\n======\n\nA relay.\n")
    docx(tmp_path / "c.docx", ("P", "A valve."))
    pdf(tmp_path / "d.pdf", ["A pump."], ["A gasket."])
    found = list(read_documents(tmp_path, Columns()))
    assert [(d.doc_id, d.title, d.markup, d.text, d.meta) for d in found] == [
        ("a.html", "Fuses", "markdown", "## Slow\n\nA slow one.", {}),
        ("b.rst", "b", "rst", "Relays\n======\n\nA relay.\n", {}),
        ("c.docx", "c", "markdown", "A valve.", {}),
        ("d.pdf", "d", "plain", "A pump.", {"page": 1}),
        ("d.pdf", "d", "plain", "A gasket.", {"page": 2}),
    ]


def test_a_pdf_without_text_is_told_and_what_it_needs(
    tmp_path: Path, pdf: Callable[..., Path], log_lines: list[str]
) -> None:
    path = pdf(tmp_path / "scan.pdf", [], [])
    with pytest.raises(DataError, match=r"scan\.pdf: no text in it"):
        list(read_documents(path, Columns()))
    assert log_lines == [f"{path}: no text (scanned? it needs OCR first), left out"]


def test_a_broken_page_stops_a_folder_unless_bad_ones_are_skipped(tmp_path: Path) -> None:
    folder, aside = tmp_path / "docs", tmp_path / "bad-lines.jsonl"
    folder.mkdir()
    (folder / "a.pdf").write_text("no")
    (folder / "b.txt").write_text("Text.")
    with pytest.raises(DataError, match=r"a\.pdf: not a PDF"):
        list(read_documents(folder, Columns()))
    assert [d.text for d in list(read_documents(folder, Columns(), skip_bad=aside))] == ["Text."]
    [record] = read_jsonl(aside)
    assert record["file"] == str(folder / "a.pdf")
    assert "not a PDF" in record["reason"]


def test_texts_of_a_table_are_read_in_the_markup_that_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("title,text\nT,<h2>Slow</h2><p>A <i>fuse</i>.</p>\n")
    [plain] = list(read_documents(path, Columns()))
    assert (plain.text, plain.markup) == ("<h2>Slow</h2><p>A <i>fuse</i>.</p>", "plain")
    [page] = list(read_documents(path, Columns(), markup="html"))
    assert (page.text, page.markup) == ("## Slow\n\nA *fuse*.", "markdown")
    [page] = list(read_documents(path, Columns(), markup="rst"))
    assert page.markup == "rst"
    path.write_text("title,text\nT,<script>x</script>\n")
    with pytest.raises(DataError, match=r"x\.csv:2: text: empty"):
        list(read_documents(path, Columns(), markup="html"))


@pytest.mark.usefixtures("folder")
class TestParquet:
    def test_rows_are_read_like_those_of_other_tables(self) -> None:
        table = pyarrow.table({"Title": ["T", None], "body": ["x", "y"], "n": [1, 2]})
        pyarrow.parquet.write_table(table, "x.parquet")
        assert list(read_documents(Path("x.parquet"), Columns())) == [
            Document("x", "T", where="x.parquet:1", meta={"n": 1}),
            Document("y", where="x.parquet:2", meta={"n": 2}),
        ]

    def test_all_rows_that_are_wrong_are_told_at_once(self) -> None:
        table = pyarrow.table({"text": ["x", "", None], "id": ["a", "b", "c"]})
        pyarrow.parquet.write_table(table, "x.parquet")
        with pytest.raises(DataError) as caught:
            list(read_documents(Path("x.parquet"), Columns()))
        assert str(caught.value).splitlines() == [
            "x.parquet:2: text: empty",
            "x.parquet:3: text: a string was expected",
        ]

    def test_values_that_json_does_not_have_are_told_as_text_or_left_out(self) -> None:
        row = {"text": "x", "day": date(2026, 1, 2), "raw": b"z", "n": float("nan"), "l": [1.5]}
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), "x.parquet")
        [document] = list(read_documents(Path("x.parquet"), Columns()))
        assert document.meta == {"day": "2026-01-02", "l": [1.5]}

    def test_more_rows_than_are_read_at_once_keep_their_order_and_numbers(self) -> None:
        table = pyarrow.table({"text": [f"t{i}" for i in range(1000)]})
        pyarrow.parquet.write_table(table, "x.parquet")
        found = list(read_documents(Path("x.parquet"), Columns()))
        assert [(d.text, d.where) for d in found] == [
            (f"t{i}", f"x.parquet:{i + 1}") for i in range(1000)
        ]

    def test_what_is_no_parquet_file_is_told(self) -> None:
        assert refused("no", "x.parquet").startswith("x.parquet: not a Parquet file")
