"""Makes every process of a run write its programs to the compilation cache.

In jax, only process 0 writes. The other processes would compile again in each run, for
several seconds.
"""

import contextlib
import importlib
from types import SimpleNamespace
from typing import Any
from unittest import mock

FIRST = SimpleNamespace(global_state=SimpleNamespace(process_id=0))

if __name__ == "programs":  # not if pytest collects doctests
    # If jax renames these functions, tests with several processes only get slower.
    with contextlib.suppress(ImportError, AttributeError):
        compiler: Any = importlib.import_module("jax._src.compiler")
        original, _ = compiler._cache_write, compiler.distributed

        def write(*args: Any, **kwargs: Any) -> None:
            """Writes as process 0 would. The processes have different cache keys."""
            with mock.patch.object(compiler, "distributed", FIRST):
                original(*args, **kwargs)

        compiler._cache_write = write
