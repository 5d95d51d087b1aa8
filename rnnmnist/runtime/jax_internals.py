"""What the package knows of jax that jax does not document. Imports no jax.

A later version can rename any of it. Each comment says what a run does then.
"""

import operator
from types import SimpleNamespace
from typing import Any

# Begins a warning about a program in the cache that is not complete, since another
# process still writes it, or was killed while it did. jax then compiles the program
# again. If the warning is reworded, commands print it.
CACHE_WARNING = "Error reading persistent compilation cache entry"
# The logger of plugins that fail. If it is renamed, some versions of jax print a
# traceback.
DEVICES_LOGGER = "jax._src.xla_bridge"
# The error if no cluster is detected, which is the usual case. If it is reworded, a run
# of one process warns and goes on.
NO_CLUSTER = "coordinator_address should be defined."
# Tracing is left out: its events are nested and would be counted more than once. If
# these events are renamed, the seconds of compilation count as those of training.
COMPILATION_EVENTS = {
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
}

ALONE = SimpleNamespace(num_processes=1, process_id=0)


def has_devices() -> bool:
    """Whether jax has its devices.

    If jax has renamed its function, the answer is True: `fit` then keeps no programs.
    """
    try:
        from jax._src.xla_bridge import backends_are_initialized
    except ImportError:
        return True
    return backends_are_initialized()


def distributed_state() -> Any:
    """Returns what `jax.distributed` knows of the processes, or `ALONE`.

    Its type is private to jax, which exports neither the key-value store (`client`) nor
    counts that do not initialize the devices. If they are renamed, several processes
    are refused.
    """
    try:
        from jax._src.distributed import global_state

        operator.attrgetter(
            "num_processes",
            "process_id",
            "client.key_value_set",  # one process has no client
            "client.blocking_key_value_get",
        )(global_state)
    except (ImportError, AttributeError):
        return ALONE
    return global_state


def process_count() -> int:
    """Returns the number of processes of this run."""
    return distributed_state().num_processes


def process_index() -> int:
    """Returns the index of this process, from 0."""
    return distributed_state().process_id
