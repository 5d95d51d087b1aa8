"""Undocumented parts of JAX that this package relies on.

Later versions of JAX may change them. The comments describe what would then happen in a
run. Importing this module does not import `jax`.
"""

from typing import Any

# The beginning of a warning that commands do not print: a cache entry is incomplete,
# because another process is still writing it or was killed while writing it. JAX then
# recompiles the program. If JAX changes the text, commands print the warning.
CACHE_WARNING = "Error reading persistent compilation cache entry"
# The message of the error that JAX raises if it detects no cluster, which is the usual
# case. If JAX changes the text, a run with a single process logs a warning that
# recommends --num_processes=1.
NO_CLUSTER = "coordinator_address should be defined."
# Tracing is excluded, because its events are nested, and the same time would be counted
# more than once. If JAX renames these events, compilation counts as training time.
COMPILATION_EVENTS = {
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
}


def process_count() -> int:
    """Returns the number of processes of this run.

    Unlike `jax.process_count`, this does not initialize the devices. If JAX renames the
    state, this package does not run. Neither does orbax, which also uses the state.
    """
    return distributed_state().num_processes


def distributed_state() -> Any:
    """Returns the state of `jax.distributed`, whose type is private.

    Until `jax.distributed.initialize` is called, the state describes a single process
    with the `process_id` 0. If there are several processes, `client` provides access to
    the key-value store.
    """
    from jax._src.distributed import global_state

    return global_state
