"""Lets each process of a run keep its compiled programs; jax lets only process 0.

Without it, the other processes compile in each run anew, for several seconds.
"""

import contextlib
import importlib
from types import SimpleNamespace
from typing import Any
from unittest import mock

FIRST = SimpleNamespace(global_state=SimpleNamespace(process_id=0))

if __name__ == "programs":  # not if pytest collects doctests
    # If jax has renamed them, the tests of several processes take longer.
    with contextlib.suppress(ImportError, AttributeError):
        compiler: Any = importlib.import_module("jax._src.compiler")
        original, _ = compiler._cache_write, compiler.distributed

        def write(*args: Any, **kwargs: Any) -> None:
            """Writes as process 0 does. The keys of programs differ by process."""
            with mock.patch.object(compiler, "distributed", FIRST):
                original(*args, **kwargs)

        compiler._cache_write = write
