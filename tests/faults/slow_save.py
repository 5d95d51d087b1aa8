"""Runs `rnnmnist.main` with slow saves, so that a kill can interrupt one.

The package itself has no hooks for tests.
"""

import time
from typing import Any

from orbax.checkpoint._src.path.atomicity import AtomicRenameTemporaryPath

from rnnmnist import cli, main

SECONDS = 0.1
original_finalize = AtomicRenameTemporaryPath.finalize


async def finalize(self: AtomicRenameTemporaryPath, *args: Any, **kwargs: Any) -> Any:
    time.sleep(SECONDS)  # the files are written, their folder is not renamed yet
    return await original_finalize(self, *args, **kwargs)


if __name__ == "__main__":
    AtomicRenameTemporaryPath.finalize = finalize
    cli.run(main.main)
