"""Pages as people write them, HTML, DOCX and PDF, as Markdown text.

The parsers are those of beautifulsoup4, markdownify, mammoth and pypdf (the extra `docs`); this
module decides what of a page is its content.
"""

import logging
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ragkit.errors import DataError, MissingExtraError
from ragkit.log import logger

if TYPE_CHECKING:
    from bs4 import BeautifulSoup, Tag

# what is no text of a page, what surrounds it, and what generators add to headings
_NO_TEXT = (
    "script, style, noscript, template, form, button, svg, img, iframe, canvas, video, audio, "
    "object, nav, a.headerlink, a.anchor"
)
_SURROUNDINGS = "body > aside, body > footer, header:not(:has(h1)), [role=navigation]"
_LINE_ENDS = re.compile(r"[ \t]+$", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n{3,}")
_BROKEN_WORD = re.compile(r"(?<=[a-z])-\n(?=[a-z])")
_BROKEN_LINE = re.compile(r"(?<=[\w,;)])\n(?=[a-z(])")


def html_page(raw: bytes | str, encoding: str | None = None) -> tuple[str, str]:
    """Return (title, Markdown) of a web page: its main part, without navigation and links.

    encoding: of bytes; None: as the page declares
    Raises:
        DataError: nested too deeply to be read.
    """
    try:
        from bs4 import BeautifulSoup
        from markdownify import MarkdownConverter
    except ImportError as error:
        raise MissingExtraError("markdownify", "docs", "reading HTML") from error

    if not raw.strip():
        return "", ""
    logging.getLogger("bs4.dammit").setLevel(logging.ERROR)  # said here, with fewer words
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it takes a text that is a URL for a mistake
        soup = BeautifulSoup(raw, "html.parser", from_encoding=encoding)
    if soup.contains_replacement_characters:
        logger.warning("a page has bytes that are not of its encoding; they became \ufffd")
    title = " ".join(soup.title.extract().get_text(" ").split()) if soup.title else ""
    content = _content(soup)
    converter = MarkdownConverter(
        heading_style="ATX", bullets="-", strip=["a"],
        escape_asterisks=False, escape_underscores=False, escape_misc=False,
    )  # fmt: skip
    try:
        text = str(converter.convert_soup(content))
    except RecursionError as error:
        raise DataError("elements nested too deeply") from error
    return title, _BLANK_LINES.sub("\n\n", _LINE_ENDS.sub("", text)).strip()


def docx_page(path: Path) -> str:
    """Return a Word document as Markdown: headings, paragraphs, lists and tables.

    Raises:
        DataError: not a Word document.
    """
    try:
        import mammoth
    except ImportError as error:
        raise MissingExtraError("mammoth", "docs", f"reading {path}") from error

    no_image = mammoth.images.img_element(lambda _: {})
    with path.open("rb") as f:
        try:
            html = mammoth.convert_to_html(
                f, convert_image=no_image, style_map="p[style-name='Title'] => h1:fresh"
            )
        except (zipfile.BadZipFile, KeyError, OSError, ValueError) as error:
            raise DataError(f"{path}: not a Word document (.docx): {error}") from error
    return html_page(html.value)[1]


def pdf_pages(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (page number from 1, text) of the pages that have text, broken lines joined.

    Raises:
        DataError: not a PDF, or one that is locked by a password.
    """
    try:
        import pypdf
        from pypdf.errors import PyPdfError
    except ImportError as error:
        raise MissingExtraError("pypdf", "docs", f"reading {path}") from error

    logging.getLogger("pypdf").setLevel(logging.ERROR)  # it repairs what it warns about
    try:
        reader = pypdf.PdfReader(path)
        if reader.is_encrypted and not reader.decrypt(""):
            raise DataError(f"{path}: locked by a password")
        for number, page in enumerate(reader.pages, start=1):
            text = _joined(page.extract_text())
            if text:
                yield number, text
    except (PyPdfError, OSError, ValueError, KeyError, RecursionError) as error:
        raise DataError(f"{path}: not a PDF that can be read: {error}") from error


def _content(soup: "BeautifulSoup") -> "Tag":
    """Return the part of a page that is its content, without what surrounds it."""
    for tag in soup.select(f"{_NO_TEXT}, {_SURROUNDINGS}"):
        tag.decompose()
    for heading in soup.select("h1, h2, h3, h4, h5, h6"):
        if not heading.get_text(strip=True):
            heading.decompose()
    for block in soup.select("summary, aside, address, fieldset, hgroup"):
        block.name = "div"  # blocks that the converter would run into the text before
    articles = soup.select("article")
    found = soup.select("main, [role=main]")[:1] or (articles if len(articles) == 1 else [])
    return next((tag for tag in found if tag.get_text(strip=True)), soup.body or soup)


def _joined(text: str) -> str:
    """Join the words and sentences that a PDF breaks at the ends of its lines."""
    text = "\n".join(line.strip() for line in text.splitlines()).strip()
    return _BROKEN_LINE.sub(" ", _BROKEN_WORD.sub("", text))
