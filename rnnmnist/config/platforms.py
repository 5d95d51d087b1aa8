"""Compilation options for CPU, GPU and TPU: they affect speed, memory and rounding."""

from typing import NamedTuple

from rnnmnist.config.schema import Config

# Default maximum number of CPU devices per process. If there are more devices, summing
# their gradients takes longer than the additional devices save.
MAX_CPU_DEVICES = 8


class Execution(NamedTuple):
    """Options for compiling a run's programs for a platform."""

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
        """Returns the options for a run on a platform, which may be absent."""
        execution = DEFAULTS.get(platform, GPU)  # JAX also calls GPUs cuda and rocm
        precision = config.execution.precision
        if config.model.is_closed_form:
            # The head's weights, fitted by ridge regression, are large, and their
            # products nearly cancel. A lower precision would ruin the logits.
            precision = "float32"
        if precision == "auto":
            return execution
        return execution._replace(precision=precision)


# Maximum number of time steps in a block of a linear recurrence on a CPU, and in an
# iteration of the block's loop. The arrays of a block fit into the cache.
CPU_BLOCK_TIME_STEPS = 6
# A CPU device computes the ensemble members one after another, because a single member
# already uses all of its cores. Its evaluation batches fit into the cache. An
# accelerator launches every operation in a loop separately: unrolling and a parallel
# scan reduce the number of launches.
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
