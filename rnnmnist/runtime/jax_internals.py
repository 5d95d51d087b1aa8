"""What the package knows of jax that jax does not document. Imports no jax.

A later version can rename any of it. Each comment says what a run does then.
"""

from typing import Any

# Begins a warning about a program in the cache that is not complete, since another
# process still writes it, or was killed while it did. jax then compiles the program
# again. If the warning is reworded, commands print it.
CACHE_WARNING = "Error reading persistent compilation cache entry"
# The error if no cluster is detected, which is the usual case. If it is reworded, a run
# of one process needs --num_processes=1.
NO_CLUSTER = "coordinator_address should be defined."
# Tracing is left out: its events are nested and would be counted more than once. If
# these events are renamed, the seconds of compilation count as those of training.
COMPILATION_EVENTS = {
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
}


def process_count() -> int:
    """Returns the number of processes of this run.

    Unlike `jax.process_count`, it does not initialize the devices. If the state is
    renamed, nothing runs; orbax reads it, too.
    """
    return distributed_state().num_processes


def distributed_state() -> Any:
    """Returns what `jax.distributed.initialize` sets, whose type is private to jax.

    Before, it has the values of a single process: the `process_id` is 0. The `client`
    of several processes has the key-value store.
    """
    from jax._src.distributed import global_state

    return global_state
