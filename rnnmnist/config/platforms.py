"""Execution options per platform, which affect speed, memory and rounding."""

from typing import NamedTuple

from rnnmnist.config.schema import Config

# The default maximum of CPU devices per process. With more devices, summing their
# gradients costs more time than the additional devices save.
MAX_CPU_DEVICES = 8


class Execution(NamedTuple):
    """Options with which the programs of a run are compiled for a platform."""

    unroll: int  # time steps per loop iteration when a cell is scanned
    precision: str  # of matrix products, as for `jax.default_matmul_precision`
    vectorize_ensemble: bool  # whether each device computes its members with `vmap`
    eval_batch_size: int  # examples per device in an evaluation batch
    parallel_scan: bool  # whether linear recurrences use `associative_scan`
    # Time steps per block of a linear recurrence. The backward pass keeps only the
    # first state of each block and recomputes the others. None: a single block.
    remat_time_steps: int | None

    @classmethod
    def create(cls, config: Config, platform: str) -> "Execution":
        """Returns the options of a run on a platform, which need not be present."""
        execution = DEFAULTS.get(platform, GPU)  # jax also calls GPUs cuda and rocm
        precision = config.execution.precision
        if config.model.is_closed_form:
            # Ridge regression fits a head with large weights, whose products nearly
            # cancel. The lower precisions of accelerators would ruin the logits.
            precision = "float32"
        if precision == "auto":
            return execution
        return execution._replace(precision=precision)


# On a CPU, the maximum number of time steps per block of a linear recurrence and per
# iteration of its loop. The arrays of a block fit into the cache.
CPU_BLOCK_TIME_STEPS = 6
# A CPU device computes ensemble members one after another, because a single member
# already uses its cores, and evaluates batches that fit into its cache. An accelerator
# launches every operation of a loop separately; unrolling and a parallel scan reduce
# the launches.
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
