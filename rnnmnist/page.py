"""Writes a page on which people draw a digit and watch networks read it, row by row.

    python -m rnnmnist.page --output=film.html
    python -m rnnmnist.page --output=film.html --workdir=runs/a --workdir=runs/b

One file that holds the networks themselves, opens from a disk in any browser and asks
no other machine for anything: mail it to a friend.
"""

from rnnmnist import errors, flags


def main(arguments: list[str]) -> None:
    """Writes the page, and prints its name and size."""
    wanted = flags.parse_page(arguments, __doc__ or "")
    import jax

    from rnnmnist import film
    from rnnmnist.compilation import keep_programs

    # A moment's work, beside a trainer that may hold the accelerator.
    jax.config.update("jax_platforms", "cpu")
    keep_programs()
    networks = [film.restore(workdir) for workdir in wanted.workdirs]
    content = film.page(networks).encode()
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
