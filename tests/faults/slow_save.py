"""`rnnmnist.main` with saves that take their time, so that a kill can hit one.

Run as a program by the tests; production code has no hooks for them.
"""

import time
from typing import Any

from orbax.checkpoint._src.path.atomicity import AtomicRenameTemporaryPath

from rnnmnist import errors, main

SECONDS = 0.25
honest = AtomicRenameTemporaryPath.finalize


async def finalize(self: AtomicRenameTemporaryPath, *args: Any, **kwargs: Any) -> Any:
    time.sleep(SECONDS)  # the files are there, their folder not yet renamed
    return await honest(self, *args, **kwargs)


if __name__ == "__main__":
    AtomicRenameTemporaryPath.finalize = finalize
    errors.run(main.main)
