"""Runs `rnnmnist.main` with slow saves, so that a kill can interrupt a save.

The package itself has no hooks for tests.
"""

import os
import time
from typing import Any

from rnnmnist.commands import command_line, train

SECONDS = 0.1
original_rename = os.rename


def rename(*args: Any, **kwargs: Any) -> None:
    """Pauses before a rename, by which orbax finishes a folder that it has written."""
    time.sleep(SECONDS)
    original_rename(*args, **kwargs)


if __name__ == "__main__":
    os.rename = rename
    command_line.run(train.main)
