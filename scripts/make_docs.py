"""Write the option tables of docs/*.md from the configuration models; --check only compares.

A table stands between `<!-- options: COMMAND -->` and `<!-- end -->`.
"""

import re
import sys
from pathlib import Path

from ragkit.config.describe import option_table
from ragkit.stages import STAGES
from ragkit.stages.convert import Config as ConvertConfig
from ragkit.stages.pipeline import Config as PipelineConfig

_OTHERS = {"run": PipelineConfig, "convert": ConvertConfig}
_TABLE = re.compile(r"(<!-- options: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def rendered(text: str) -> str:
    """Return a page with its option tables made anew."""

    def table(match: re.Match[str]) -> str:
        command = match[2]
        model = _OTHERS[command] if command in _OTHERS else STAGES[command].load().Config
        return f"{match[1]}{option_table(model)}{match[3]}"

    return _TABLE.sub(table, text)


def main() -> None:
    """Write or check every page."""
    check = "--check" in sys.argv
    pages = sorted(Path("docs").glob("*.md"))
    stale = [page for page in pages if rendered(page.read_text()) != page.read_text()]
    told = {m[2] for page in pages for m in _TABLE.finditer(page.read_text())}
    if missing := {*STAGES, *_OTHERS} - told:
        sys.exit(f"docs: no option table of {', '.join(sorted(missing))}")
    if check and stale:
        names = ", ".join(map(str, stale))
        sys.exit(f"{names}: option tables are out of date: python scripts/make_docs.py")
    for page in stale:
        page.write_text(rendered(page.read_text()))
        print(f"{page}: written")


if __name__ == "__main__":
    main()
