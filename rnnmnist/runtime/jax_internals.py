"""Undocumented parts of jax that this package relies on. Does not import jax.

Later versions of jax can rename them. Each comment describes the effect on a run.
"""

from typing import Any

# The beginning of the warning about an incomplete cache entry, which another process is
# still writing, or was killed while writing. jax then recompiles the program. If jax
# rewords the warning, commands print it.
CACHE_WARNING = "Error reading persistent compilation cache entry"
# The error if jax detects no cluster, which is the usual case. If jax rewords it, a run
# with a single process logs a warning that recommends --num_processes=1.
NO_CLUSTER = "coordinator_address should be defined."
# Tracing is excluded: its events are nested and would be counted more than once. If jax
# renames these events, compilation time counts as training time.
COMPILATION_EVENTS = {
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
}


def process_count() -> int:
    """Returns the number of processes of this run.

    Unlike `jax.process_count`, this does not initialize the devices. If jax renames the
    state, nothing runs; orbax reads the state, too.
    """
    return distributed_state().num_processes


def distributed_state() -> Any:
    """Returns the state of `jax.distributed`, whose type is private to jax.

    Before `jax.distributed.initialize`, the state describes a single process, with
    `process_id` 0. With several processes, its `client` provides the key-value store.
    """
    from jax._src.distributed import global_state

    return global_state
