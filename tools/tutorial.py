"""Runs docs/tutorial.md's snippets, and puts what they print below them.

    python tools/tutorial.py

All ```python blocks are one program, from the top to the bottom. A ```text block right
after one of them is what that block printed.
"""

import contextlib
import io
import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parent.parent / "docs/tutorial.md"
SNIPPET = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.M | re.S)


def rendered(page: str) -> str:
    """The page with what its snippets print now, run in this process and folder."""
    namespace: dict[str, Any] = {"__name__": "tutorial"}
    parts, end = [], 0
    for found in SNIPPET.finditer(page):
        # Empty lines before it, so that an error names the page's own line.
        above = page[: found.start(1)].count("\n") * "\n"
        code = compile(above + found[1], str(PAGE), "exec")
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code, namespace)
        parts.append(page[end : found.start()])
        parts.append(f"```python\n{found[1]}```\n")
        if found[2] is not None:
            lines = "".join(
                f"{line.rstrip()}\n" for line in printed.getvalue().splitlines()
            )
            parts.append(f"\n```text\n{lines}```\n")
        end = found.end()
    return "".join([*parts, page[end:]])


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text()))
