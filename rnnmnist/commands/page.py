"""Writes the drawing page, where networks classify the digit you draw, row by row.

    rnnmnist page --output=draw.html
    rnnmnist page --output=draw.html --workdir=runs/a --workdir=runs/b

The page is a single HTML file. It contains the networks and works offline, without a
server.
"""

from rnnmnist import errors
from rnnmnist.commands.command_line import Parser
from rnnmnist.config.files import REFERENCE_WORKDIRS
from rnnmnist.config.settings import expand_path


def main(argv: list[str]) -> None:
    """Writes the page, and prints its path and size."""
    parser = Parser("page", __doc__)
    parser.add_argument(
        "--output", metavar="FILE.html", required=True, help="HTML file to write"
    )
    parser.add_workdir_argument(
        action="append",
        help="folder of a run; repeat to compare several runs (default: the "
        f"reference models {' and '.join(REFERENCE_WORKDIRS)})",
    )
    args = parser.parse(argv)
    path = expand_path(args.output)
    if path.suffix != ".html":
        value = errors.format_value(args.output)
        raise errors.UserError(f"output: must end in .html, not {value}")
    from rnnmnist.model import load
    from rnnmnist.runs.writing import write_atomically
    from rnnmnist.runtime.compilation import use_cpu
    from rnnmnist.web import drawing_page

    use_cpu()
    networks = [load(workdir) for workdir in args.workdir or REFERENCE_WORKDIRS]
    content = drawing_page.render(networks).encode()
    write_atomically(path, content)
    print(f"{path} ({len(content) / 1000:,.0f} kB)")
