"""Lets each process of a run keep its compiled programs; jax lets only process 0.

Python imports this module when it starts with this folder on `PYTHONPATH`. Without it,
the other processes compile in each run anew, for several seconds.
"""

from types import SimpleNamespace
from typing import Any
from unittest import mock

FIRST = SimpleNamespace(global_state=SimpleNamespace(process_id=0))

if __name__ == "sitecustomize":  # not if pytest collects doctests
    from jax._src import compiler

    original = compiler._cache_write

    def write(*args: Any, **kwargs: Any) -> None:
        """Writes as process 0 does. The keys of programs differ between processes."""
        with mock.patch.object(compiler, "distributed", FIRST):
            original(*args, **kwargs)

    compiler._cache_write = write
