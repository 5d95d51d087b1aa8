"""Runs the snippets of docs/tutorial.md and inserts their output below them.

    python tools/tutorial.py

All ```python blocks together are one program. A ```text block directly after one is its
output.
"""

import contextlib
import io
import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parent.parent / "docs/tutorial.md"
SNIPPET = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.M | re.S)


def render(page: str) -> str:
    """Runs the snippets in this process and returns the page with their output."""
    namespace: dict[str, Any] = {"__name__": "tutorial"}
    parts, end = [], 0
    for found in SNIPPET.finditer(page):
        # Leading newlines give a traceback the line numbers of the page.
        newlines = page[: found.start(1)].count("\n") * "\n"
        code = compile(newlines + found[1], str(PAGE), "exec")
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
    PAGE.write_text(render(PAGE.read_text()))
