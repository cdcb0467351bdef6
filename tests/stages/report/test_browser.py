"""Reports in a real browser: headless Chromium, driven through its own driver on loopback."""

import base64
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium with chromedriver")

BASE = [3, 4, None, 2, 8, 6, 3, 9, None, 5, 7, 4] * 3
TUNED = [1, 1, 1, 1, 2, 1, 1, 1, 5, 1, 1, 12] * 3
CONTROL, RELEASED, BACKSPACE, ENTER = "\ue009", "\ue000", "\ue003", "\ue007"  # WebDriver's keys
LONG = "a-name-of-sixty-characters-that-somebody-chose-with-no-spaces"[:60]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A headless browser that keeps a log of its console and of what it asks for."""
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu",
                 "--disable-background-networking", "--window-size=1280,900"):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


class Reader:
    """Somebody who reads a page in the browser."""

    def __init__(self, chromium: Any) -> None:
        self.chromium = chromium

    def opens(self, page: Path, scheme: str = "light", width: int = 1280) -> None:
        """Open a page with a colour scheme and a width of the window, the log empty before."""
        for kind in ("browser", "performance"):
            self.chromium.get_log(kind)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.does("Emulation.setEmulatedMedia", media="screen", features=features)
        self.does("Emulation.setDeviceMetricsOverride", width=width, height=900,
                  deviceScaleFactor=1, mobile=width < 500)  # fmt: skip
        self.chromium.get(page.as_uri())

    def does(self, command: str, **parameters: Any) -> Any:
        """Give a command of the DevTools protocol."""
        return self.chromium.execute_cdp_cmd(command, parameters)

    def sees(self, script: str) -> Any:
        """Return what an expression of JavaScript comes to."""
        return self.chromium.execute_script(f"return {script}")

    def types(self, text: str) -> None:
        """Put a text into the search field."""
        field = self.chromium.find_element("css selector", "input[name=text]")
        field.send_keys(f"{CONTROL}a{RELEASED}{BACKSPACE}{text}")

    def chooses(self, name: str, value: str) -> None:
        """Choose an option of a filter."""
        self.chromium.find_element(
            "css selector", f"select[name={name}] option[value='{value}']"
        ).click()

    @property
    def rows(self) -> list[str]:
        """The rows of the table of questions that are shown."""
        found: list[str] = self.sees(
            "[...document.querySelectorAll('table.questions tbody tr')].map(r => r.innerText)"
        )
        return found

    @property
    def requests(self) -> list[str]:
        """The addresses that were asked for since the page was opened."""
        messages = [
            json.loads(e["message"])["message"] for e in self.chromium.get_log("performance")
        ]
        sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [request["request"]["url"] for request in sent]


@pytest.fixture
def reader(chromium: Any) -> Reader:
    return Reader(chromium)


@pytest.fixture
def page(report: Callable[..., Any], runs: Any) -> Path:
    """A report of retrieval and answers; its texts try to break out of it."""
    made = report(
        runs.retriever("base", BASE),
        runs.retriever(LONG, TUNED),
        runs.answers("answers", [0.1, 0.5, 0.9, 1.0]),
        runs.answers("answers-tuned", [0.2, 0.4, 1.0, 1.0]),
    )
    path: Path = made.path / "report.html"
    return path


def test_a_page_opens_without_errors_and_asks_for_nothing(reader: Reader, page: Path) -> None:
    reader.opens(page)
    assert reader.chromium.get_log("browser") == []
    assert reader.requests == [page.as_uri()]
    assert reader.sees("document.title") == "Evaluation report"  # no text of a passage ran
    assert reader.sees("[...document.querySelectorAll('section')].map(s => s.id)") == [
        "retrieval", "answers", "questions", "speed", "provenance",
    ]  # fmt: skip
    assert reader.sees("document.querySelectorAll('svg circle').length") > 5


def test_the_policy_stops_what_a_page_should_never_do(reader: Reader, page: Path) -> None:
    reader.opens(page)
    reader.sees(
        "document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:9/x.png'}))"
    )
    said = reader.chromium.get_log("browser")
    assert len(said) == 1 and "violates the following Content Security" in said[0]["message"]


def test_search_and_filters_narrow_the_table(reader: Reader, page: Path) -> None:
    reader.opens(page)
    assert len(reader.rows) == 25
    assert reader.sees("document.getElementById('count').innerText") == "36 of 36 questions"
    reader.types("number 35")
    assert len(reader.rows) == 1 and "What is number 35?" in reader.rows[0]
    assert reader.rows[0].split()[-3:] == ["0.43", "0.00", "−0.43"]
    reader.types("no such words")
    assert reader.rows == []
    reader.types("")
    reader.chooses("outcome", "worse")
    assert len(reader.rows) == 3
    reader.chooses("slice", "0")  # kind=even: 11, 23 and 35 are odd
    assert reader.rows == []
    reader.chooses("slice", "")
    reader.chooses("kind", "1")
    assert len(reader.rows) == 1 and "What is number 1?" in reader.rows[0]
    reader.chooses("system", "0")
    assert len(reader.rows) == 4


def test_a_row_opens_and_more_rows_can_be_had(reader: Reader, page: Path) -> None:
    reader.opens(page)
    reader.chromium.find_element("id", "more").click()
    assert len(reader.rows) == 36
    button = reader.chromium.find_element("css selector", "table.questions .open")
    button.send_keys(ENTER)
    assert button.get_attribute("aria-expanded") == "true"
    detail = reader.rows[1]
    assert "right passage at 4" in detail and "right passage at 12" in detail
    assert reader.sees("document.querySelectorAll('table.questions b').length") == 0
    button.send_keys(ENTER)
    assert len(reader.rows) == 36


def test_a_column_sorts_both_ways(reader: Reader, page: Path) -> None:
    reader.opens(page)
    changes = [row.split()[-1] for row in reader.rows]
    assert changes[:3] == ["−0.43"] * 3
    head = "table.questions thead th:last-child button"
    reader.chromium.find_element("css selector", head).click()
    assert [row.split()[-1] for row in reader.rows][0] == "+1.00"
    heads = "document.querySelector('table.questions [aria-sort]').getAttribute('aria-sort')"
    assert reader.sees(heads) == "descending"


@pytest.mark.parametrize("width", [360, 390, 768, 1280])
def test_no_width_scrolls_sideways(reader: Reader, page: Path, width: int) -> None:
    reader.opens(page, width=width)
    reader.sees("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert reader.sees("document.documentElement.scrollWidth") <= width


def test_on_a_telephone_a_question_has_the_width_of_the_page(reader: Reader, page: Path) -> None:
    reader.opens(page, width=360)
    for button in reader.chromium.find_elements("css selector", "table.questions .open")[:2]:
        reader.chromium.execute_script("arguments[0].click()", button)
    cells = "[...document.querySelectorAll('table.questions tbody td:first-child')]"
    widths = reader.sees(f"{cells}.map(cell => cell.getBoundingClientRect().width)")
    assert len(widths) == 27 and min(widths) > 300


def test_dark_mode_changes_the_colours_and_stays_legible(reader: Reader, page: Path) -> None:
    found = {}
    for scheme in ("light", "dark"):
        reader.opens(page, scheme=scheme)
        found[scheme] = {
            name: reader.sees(
                f"getComputedStyle(document.documentElement).getPropertyValue('--{name}').trim()"
            )
            for name in ("paper", "ink", "soft", "accent")
        }
        shown = reader.sees("getComputedStyle(document.body).backgroundColor")
        assert [int(n) for n in re.findall(r"\d+", shown)] == _rgb(found[scheme]["paper"])
        for name in ("ink", "soft", "accent"):
            assert contrast(found[scheme][name], found[scheme]["paper"]) >= 4.5, (scheme, name)
    assert found["light"]["paper"] != found["dark"]["paper"]


def contrast(a: str, b: str) -> float:
    """Return the contrast of two colours (WCAG 2.2, "contrast ratio")."""
    light, dark = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _rgb(colour: str) -> list[int]:
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


def _luminance(colour: str) -> float:
    parts = [c / 255 for c in _rgb(colour)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def test_every_plot_and_field_has_a_name(reader: Reader, page: Path) -> None:
    reader.opens(page)
    tree = reader.does("Accessibility.getFullAXTree")["nodes"]
    named = ("image", "searchbox", "combobox", "button", "region", "navigation", "table")
    roles = {
        role: [n.get("name", {}).get("value", "") for n in tree if _role(n) == role]
        for role in named
    }
    assert all(roles[role] for role in ("image", "searchbox", "combobox", "button", "region"))
    unnamed = [role for role, names in roles.items() if role != "table" and not all(names)]
    assert unnamed == []


def _role(node: dict[str, Any]) -> str:
    return "" if node["ignored"] else str(node["role"]["value"])


def test_it_prints_light_without_the_controls(reader: Reader, page: Path) -> None:
    reader.opens(page, scheme="dark")
    reader.does("Emulation.setEmulatedMedia", media="print")
    assert reader.sees("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert reader.sees("document.querySelector('.explorer').checkVisibility()") is False
    assert reader.sees("document.querySelector('h1').checkVisibility()") is True
    printed = base64.b64decode(reader.does("Page.printToPDF")["data"])
    assert printed.startswith(b"%PDF") and len(printed) > 20_000
