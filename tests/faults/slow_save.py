"""Runs `rnnmnist.main` with slow saves, so that a kill can interrupt one.

The package itself has no hooks for tests.
"""

import os
import time
from typing import Any

from rnnmnist.commands import command_line, train

SECONDS = 0.1
original_rename = os.rename


def rename(*args: Any, **kwargs: Any) -> None:
    """Renames a folder of orbax, whose files are written, after a pause."""
    time.sleep(SECONDS)
    original_rename(*args, **kwargs)


if __name__ == "__main__":
    os.rename = rename
    command_line.run(train.main)
