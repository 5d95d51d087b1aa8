"""Execution options per platform: they affect speed, memory and rounding only."""

from typing import NamedTuple

from rnnmnist.config.schema import Config


class Execution(NamedTuple):
    """The options with which a run's programs are executed on a platform."""

    unroll: int  # time steps per loop iteration in the scan of a cell
    precision: str  # precision of matrix products, a `jax.default_matmul_precision`
    vectorize_ensemble: bool  # whether each device computes its members with `vmap`
    eval_batch_size: int  # examples per device in an evaluation batch
    parallel_scan: bool  # whether linear recurrences use `associative_scan`
    # Time steps per block of a linear recurrence. Only the first state of each block is
    # kept for the backward pass, which recomputes the others. None: a single block.
    remat_time_steps: int | None

    @classmethod
    def create(cls, config: Config, platform: str) -> "Execution":
        """Returns the options for a platform, which this machine may lack."""
        execution = DEFAULTS.get(platform, GPU)  # JAX also calls GPUs cuda and rocm
        precision = config.execution.precision
        if config.model.is_closed_form:
            # The head's weights, fitted by ridge regression, are large, and their
            # products nearly cancel. A lower precision would ruin the logits.
            precision = "float32"
        if precision == "auto":
            return execution
        return execution._replace(precision=precision)


# On a CPU, the block size of a linear recurrence and the `unroll` of the scan over a
# block, in time steps. The arrays of a block of this size fit into the cache.
CPU_BLOCK_TIME_STEPS = 6
# A CPU device computes the ensemble members one after another, because a single member
# already uses all of its cores. Its evaluation batches fit into the cache. A GPU
# launches each operation in a loop as a separate kernel: unrolling and a parallel scan
# reduce the number of launches.
GPU = Execution(
    unroll=32,
    precision="tensorfloat32",
    vectorize_ensemble=True,
    eval_batch_size=1024,
    parallel_scan=True,
    remat_time_steps=None,
)
DEFAULTS = {
    "cpu": Execution(
        unroll=1,
        precision="float32",
        vectorize_ensemble=False,
        eval_batch_size=64,
        parallel_scan=False,
        remat_time_steps=CPU_BLOCK_TIME_STEPS,
    ),
    "gpu": GPU,
    "tpu": GPU._replace(precision="bfloat16"),
}
