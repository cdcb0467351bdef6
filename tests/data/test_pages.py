"""HTML, DOCX and PDF as Markdown."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ragkit.data.pages import docx_page, html_page, pdf_pages
from ragkit.errors import DataError


def html(body: str, head: str = "") -> str:
    return html_page(f"<html><head>{head}</head><body>{body}</body></html>")[1]


def test_the_content_of_a_web_page_is_kept_and_what_surrounds_it_is_not() -> None:
    page = """<nav>Home Shop</nav><header>Logo</header><main><h1>Fuses</h1>
    <p>A <b>fuse</b> of <a href="http://x">5 A</a>.</p><script>var a = "no";</script>
    <ul><li>slow</li><li>fast</li></ul></main><footer>Imprint</footer>"""
    assert html(page) == "# Fuses\n\nA **fuse** of 5 A.\n\n- slow\n- fast"


def test_a_table_of_a_web_page_stays_a_table() -> None:
    page = "<table><tr><th>key</th><th>value</th></tr><tr><td>a_b</td><td>1*2</td></tr></table>"
    assert html(page).splitlines() == ["| key | value |", "| --- | --- |", "| a_b | 1*2 |"]


def test_code_of_a_web_page_keeps_its_lines() -> None:
    assert html("<p>Run</p><pre>a = 1\n  b</pre>") == "Run\n\n```\na = 1\n  b\n```"


def test_a_header_with_the_heading_of_the_page_is_content() -> None:
    assert html("<header><h1>Fuses</h1></header><p>Text.</p>") == "# Fuses\n\nText."


def test_all_articles_of_a_page_are_its_content_and_their_asides_too() -> None:
    page = "<article><h1>A</h1>one<aside>note</aside></article><article><h1>B</h1>two</article>"
    assert html(f"<aside>ad</aside>{page}<footer>no</footer>") == (
        "# A\n\none\n\nnote\n\n# B\n\ntwo"
    )


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("a<br>b &lt;x&gt; &amp; c", "a\nb <x> & c"),
        ("<details><summary>Why?</summary>So.</details>", "Why?\n\nSo."),
        ("<h1> </h1><p>x</p>", "x"),
        ("<h2>Fuses<a class='headerlink' href='#f'>¶</a></h2>", "## Fuses"),
        ("https://example.com/a", "https://example.com/a"),
        ("", ""),
    ],
)
def test_odds_and_ends_of_web_pages(body: str, expected: str) -> None:
    assert html(body) == html_page(body)[1] == expected


def test_the_title_of_a_web_page_is_read() -> None:
    assert html_page("<title> Fuses\n and relays </title><p>x</p>") == ("Fuses and relays", "x")


def test_a_web_page_is_decoded_as_it_declares_or_as_told() -> None:
    raw = "<meta charset='iso-8859-1'><p>Grüße</p>".encode("latin-1")
    assert html_page(raw)[1] == "Grüße"
    assert html_page("<p>Grüße</p>".encode("utf-16"), "utf-16")[1] == "Grüße"


def test_elements_nested_too_deeply_are_told() -> None:
    with pytest.raises(DataError, match="nested too deeply"):
        html_page("<div>" * 20_000 + "x")


def test_a_word_document_keeps_its_headings(tmp_path: Path, docx: Callable[..., Path]) -> None:
    path = docx(tmp_path / "a.docx", ("Title", "Fuses"), ("H1", "Slow"), ("P", "A slow one."))
    assert docx_page(path) == "# Fuses\n\n# Slow\n\nA slow one."


def test_what_is_no_word_document_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.docx").write_text("not a zip")
    with pytest.raises(DataError, match=r"a\.docx: not a Word document"):
        docx_page(tmp_path / "a.docx")
    with zipfile.ZipFile(tmp_path / "b.docx", "w") as archive:
        archive.writestr("readme.txt", "x")
    with pytest.raises(DataError, match=r"b\.docx: not a Word document"):
        docx_page(tmp_path / "b.docx")


def test_a_pdf_gives_the_pages_that_have_text_with_their_numbers(
    tmp_path: Path, pdf: Callable[..., Path]
) -> None:
    path = pdf(tmp_path / "a.pdf", ["Fuses."], [], ["Relays."])
    assert list(pdf_pages(path)) == [(1, "Fuses."), (3, "Relays.")]


def test_words_and_sentences_broken_at_the_end_of_a_line_are_joined(
    tmp_path: Path, pdf: Callable[..., Path]
) -> None:
    lines = ["Slow fuses pro-", "tect motors and", "pumps.", "Fast ones: Radios"]
    [(_, text)] = pdf_pages(pdf(tmp_path / "a.pdf", lines))
    assert text == "Slow fuses protect motors and pumps.\nFast ones: Radios"


def test_what_is_no_pdf_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_text("nothing of the kind")
    with pytest.raises(DataError, match=r"a\.pdf: not a PDF that can be read"):
        list(pdf_pages(tmp_path / "a.pdf"))


def test_a_pdf_with_a_password_is_told(tmp_path: Path, pdf: Callable[..., Path]) -> None:
    import pypdf

    writer = pypdf.PdfWriter(clone_from=pdf(tmp_path / "a.pdf", ["Secret."]))
    writer.encrypt("word", algorithm="RC4-128")
    writer.write(tmp_path / "b.pdf")
    with pytest.raises(DataError, match=r"b\.pdf: locked by a password"):
        list(pdf_pages(tmp_path / "b.pdf"))
