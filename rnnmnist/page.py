"""Writes a page on which people draw a digit and watch networks read it, row by row.

    python -m rnnmnist.page --output=film.html
    python -m rnnmnist.page --output=film.html --workdir=runs/a --workdir=runs/b

One file that holds the networks themselves, opens from a disk in any browser and asks
no other machine for anything: mail it to a friend.
"""

import argparse

from rnnmnist import errors
from rnnmnist.config.command_line import Parser, file_to_write, workdir_of_run
from rnnmnist.config.files import REFERENCES


def parse(argv: list[str]) -> argparse.Namespace:
    """Parses the command line.

    Raises:
        UserError: for a wrong flag or value, or more than two workdirs.
    """
    parser = Parser("page", __doc__)
    parser.add_argument(
        "--output", metavar="FILE.html", required=True, help="where the page goes"
    )
    parser.add_workdir(
        required=False,
        action="append",
        help="of a run; given again, two are shown side by side "
        f"({' and '.join(REFERENCES)}, the models that are shipped)",
    )
    args = parser.parse(argv)
    args.output = file_to_write("--output", args.output, ".html")
    args.workdir = args.workdir or [workdir_of_run(text) for text in REFERENCES]
    if len(args.workdir) > 2:
        raise errors.UserError(
            f"--workdir: the page shows one or two, not {len(args.workdir)}"
        )
    if len(set(args.workdir)) < len(args.workdir):
        raise errors.UserError(f"--workdir: {args.workdir[0]} is given more than once")
    return args


def main(argv: list[str]) -> None:
    """Writes the page, and prints its name and size."""
    args = parse(argv)
    import jax

    from rnnmnist.runtime.compilation import enable_compilation_cache
    from rnnmnist.web import drawing_page

    # A moment's work, beside a trainer that may hold the accelerator.
    jax.config.update("jax_platforms", "cpu")
    enable_compilation_cache()
    networks = [drawing_page.restore(workdir) for workdir in args.workdir]
    content = drawing_page.page(networks).encode()
    try:
        args.output.write_bytes(content)
    except OSError as error:
        why = error.strerror or error
        raise errors.UserError(
            f"--output: {args.output} cannot be written: {why}"
        ) from error
    print(f"{args.output} ({len(content) / 1000:,.0f} kB)")


if __name__ == "__main__":
    errors.run(main)
