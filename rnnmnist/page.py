"""Writes a page on which people draw a digit and watch networks read it, row by row.

    python -m rnnmnist.page --output=film.html
    python -m rnnmnist.page --output=film.html --workdir=runs/a --workdir=runs/b

One file that holds the networks themselves, opens from a disk in any browser and asks
no other machine for anything: mail it to a friend.
"""

from rnnmnist import errors
from rnnmnist.config import command_line


def main(arguments: list[str]) -> None:
    """Writes the page, and prints its name and size."""
    wanted = command_line.parse_page(arguments, __doc__ or "")
    import jax

    from rnnmnist.runtime.compilation import keep_programs
    from rnnmnist.web import drawing_page

    # A moment's work, beside a trainer that may hold the accelerator.
    jax.config.update("jax_platforms", "cpu")
    keep_programs()
    networks = [drawing_page.restore(workdir) for workdir in wanted.workdirs]
    content = drawing_page.page(networks).encode()
    try:
        wanted.output.write_bytes(content)
    except OSError as error:
        why = error.strerror or error
        raise errors.UserError(
            f"--output: {wanted.output} cannot be written: {why}"
        ) from error
    print(f"{wanted.output} ({len(content) / 1000:,.0f} kB)")


if __name__ == "__main__":
    errors.run(main)
