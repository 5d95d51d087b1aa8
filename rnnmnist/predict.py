"""Reads the digit in image files, or in all images of a folder.

    python -m rnnmnist.predict digit.png
    python -m rnnmnist.predict digit.png --show=read.png
    python -m rnnmnist.predict photos/ --json

PNG, JPEG, WebP, BMP or GIF of any size, ink of any colour on paper of any other, one
digit an image; - is standard input. A file that cannot be read does not stop the rest;
the exit code is then 2.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rnnmnist import errors
from rnnmnist.config import command_line

if TYPE_CHECKING:
    from rnnmnist.inference.predictor import Reading


def main(arguments: list[str]) -> None:
    """Prints what the network says of each file."""
    wanted = command_line.parse_prediction(arguments, __doc__ or "")
    import jax

    from rnnmnist.inference import image_io, terminal
    from rnnmnist.inference.predictor import Reader
    from rnnmnist.runtime.compilation import keep_programs

    # A moment's work, beside a trainer that may hold the accelerator.
    jax.config.update("jax_platforms", "cpu")
    keep_programs()
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    reader, failed = Reader(wanted.workdir, wanted.step), False
    for word in wanted.images:
        try:
            names = image_io.find(word)
            if wanted.show is not None and len(names) * len(wanted.images) > 1:
                raise errors.UserError("--show: draws one image, not several; name one")
        except errors.UserError as error:
            names, failed = [], True
            complain(error)
        for name in names:
            try:
                reading = reader.read(name)
            except errors.UserError as error:
                failed = True
                complain(error)
                continue
            if wanted.json:
                print(json.dumps({"file": name} | reading.to_dict()), flush=True)
            else:
                print(*terminal.lines(shown(name), reading), sep="\n", flush=True)
            if wanted.show is not None:
                draw(reading, wanted.show)
    if failed:
        errors.leave("", errors.UserError.exit_code)


def draw(reading: Reading, file: Path) -> None:
    """Writes the picture of a reading.

    Raises:
        UserError: when it cannot be written.
    """
    from rnnmnist.reporting import plots

    try:
        file.write_bytes(plots.reading(reading.stages, reading.belief))
    except OSError as error:
        raise errors.UserError(
            f"--show: {file} cannot be written: {error.strerror or error}"
        ) from error


def complain(error: errors.UserError) -> None:
    """Says on standard error, in one line, what is wrong with a file."""
    print(f"error: {shown(str(error))}", file=sys.stderr, flush=True)


def shown(text: str) -> str:
    """A text in one line; what cannot be printed, as an escape."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


if __name__ == "__main__":
    errors.run(main)
