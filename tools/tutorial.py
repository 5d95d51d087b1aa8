"""Makes the notebooks of the tutorial, for Colab, from its pages.

    python tools/tutorial.py

The cells of a notebook are those of its page. The notebook installs the package first,
as notebooks/colab.ipynb does. What the page folds in <details> is folded text in the
notebook, with its code, so that "Run all" does not run it: boxes for those who need
them, and answers, each below an empty cell. The code of docs/tutorial_setup.py, which a
page loads, is folded as Colab folds cells. Cells that only check the page are left out.
"""

import re
from pathlib import Path
from typing import Any

import jupytext
import nbformat

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = [
    REPOSITORY / "docs" / f"tutorial_{part}.md"
    for part in ("train", "gradients", "trust")
]
COLAB = REPOSITORY / "notebooks/colab.ipynb"
GITHUB = "https://github.com/rnnmnist/rnnmnist"
SITE = "https://rnnmnist.github.io/rnnmnist/"
RAW = "https://raw.githubusercontent.com/rnnmnist/rnnmnist/main/docs/"
SOURCE = f'SOURCE = "git+{GITHUB}"  # @param {{type:"string"}}'
CODE = "```{code-cell}"
FOLDED = re.compile(r"<details>.*?</details>", re.DOTALL)
ANSWER = "<details><summary>Answer</summary>"
EMPTY = f"{CODE}\n# Your turn\n```\n\n"


def notebook_of(page: Path) -> Path:
    """Returns the path of the notebook of a page."""
    return REPOSITORY / "notebooks" / f"{page.stem}.ipynb"


def absolute_links(text: str, page: str) -> str:
    """Lets images and links to files lead to GitHub, and links to pages to the site.

    `page` is the name of the page that has the text.
    """
    text = re.sub(r"(!\[[^\]]*\]\()(?=\w+\.(png|svg))", rf"\1{RAW}", text)
    text = text.replace(".svg)", ".svg?sanitize=true)")  # for its content type
    text = re.sub(r"\]\(\.\./", f"]({GITHUB}/blob/main/", text)
    text = text.replace("](#", f"]({page}.md#")
    return re.sub(r"\]\((\w+)\.md", rf"]({SITE}\1.html", text)


def folded_text(page: str) -> str:
    """Turns folded code cells into text, and adds an empty cell before each answer."""
    page = FOLDED.sub(lambda found: found[0].replace(CODE, "```python"), page)
    return page.replace(ANSWER, EMPTY + ANSWER)


def installation() -> list[Any]:
    """Returns the cells that install the package."""
    cells = nbformat.read(COLAB, as_version=4).cells
    (install,) = (cell.source for cell in cells if cell.id == "install")
    text = "## Install\n\nThis takes a minute, and replaces no package of the runtime."
    return [
        nbformat.v4.new_markdown_cell(text),
        nbformat.v4.new_code_cell(SOURCE),
        nbformat.v4.new_code_cell(install),
    ]


def convert(page: Path) -> str:
    """Returns the notebook of a page, as JSON."""
    notebook = jupytext.reads(folded_text(page.read_text()), fmt="md:myst")
    first, *others = notebook.cells
    title, heading, rest = first.source.partition("\n## ")
    start = nbformat.v4.new_markdown_cell(title)
    others.insert(0, nbformat.v4.new_markdown_cell(heading.strip() + " " + rest))
    cells = [start, *installation()]
    for cell in others:
        tags = cell.metadata.pop("tags", [])
        if "remove-cell" in tags:
            continue
        if "load" in cell.metadata:
            code = (page.parent / cell.metadata["load"]).read_text().strip()
            cell.metadata = {"cellView": "form", "jupyter": {"source_hidden": True}}
            cell.source = f"# @title Code of part 1\n{code}"
        cells.append(cell)
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"
        if cell.cell_type == "markdown":
            source = re.sub(r"<!--.*\n?", "", cell.source)
            cell.source = absolute_links(source, page.stem).strip()
    notebook.cells = [cell for cell in cells if cell.source]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return nbformat.writes(notebook) + "\n"


if __name__ == "__main__":
    for page in PAGES:
        notebook_of(page).write_text(convert(page))
