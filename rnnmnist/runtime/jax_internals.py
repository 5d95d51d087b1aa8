"""Undocumented parts of JAX that this package relies on.

Later versions of JAX may change these parts. The comments describe the consequences for
a run. Importing this module does not import `jax`.
"""

from typing import Any

# Prefix of a JAX warning that commands do not print. JAX logs the warning if a cache
# entry is incomplete because another process is still writing the entry, or was killed
# while writing it. JAX then recompiles the program. If JAX changes the text, commands
# print the warning.
CACHE_WARNING = "Error reading persistent compilation cache entry"
# Message of the error that JAX raises if it detects no cluster, the usual case. If JAX
# changes the text, single-process runs log a warning that recommends --num_processes=1.
NO_CLUSTER = "coordinator_address should be defined."
# Tracing is excluded: its events are nested, so time would be counted more than once.
# If JAX renames these events, compilation time counts as training time.
COMPILATION_EVENTS = {
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
}


def process_count() -> int:
    """Returns the number of processes of this run.

    Unlike `jax.process_count`, this function does not initialize JAX's backends.
    """
    return distributed_state().num_processes


def distributed_state() -> Any:
    """Returns the state of `jax.distributed`, which has a private type.

    Until `jax.distributed.initialize` is called, the state describes a single process
    with the `process_id` 0. If there are several processes, `client` provides access to
    the key-value store. If JAX renames this state, the package breaks, and so does
    Orbax, which also uses it.
    """
    from jax._src.distributed import global_state

    return global_state
