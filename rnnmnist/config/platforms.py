"""How programs run on each platform: choices that affect speed, memory and rounding."""

from typing import NamedTuple

from rnnmnist.config.schema import Config

# A process uses at most so many devices of a CPU by default. With more, adding up their
# gradients costs more time than they save.
MOST_CPU_DEVICES = 8


class Execution(NamedTuple):
    """How the programs of a run are compiled for a platform."""

    unroll: int  # time steps of a scanned cell per iteration of its loop
    precision: str  # of matrix products, as for `jax.default_matmul_precision`
    vectorize_ensemble: bool  # whether a device computes its networks together
    eval_batch_size: int  # examples that a device evaluates at a time
    parallel_scan: bool  # whether linear recurrences use `associative_scan`
    # Linear recurrences read blocks of so many time steps, and the backward pass keeps
    # the first state of each block. If it is None, they read all time steps at once.
    remat_time_steps: int | None

    @classmethod
    def create(cls, config: Config, platform: str) -> "Execution":
        """Returns how a run executes on a platform, which need not be present."""
        execution = DEFAULTS.get(platform, GPU)  # jax also names GPUs cuda and rocm
        precision = config.execution.precision
        if config.model.is_closed_form:
            # A ridge regression fits the head. Its weights are large, and its products
            # nearly cancel, so the coarser precisions of accelerators would leave
            # little of the logits.
            precision = "float32"
        if precision == "auto":
            return execution
        return execution._replace(precision=precision)


# The most time steps that a linear recurrence computes at once on a CPU: in a block,
# and in an iteration of its loop. The arrays of so many fit its cache.
LINEAR_TIME_STEPS = 6
# A CPU device computes its networks in turn, since one already uses its cores. It
# evaluates as many examples as fit its cache. An accelerator launches every operation
# of a loop anew, which unrolling and a parallel scan avoid.
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
        remat_time_steps=LINEAR_TIME_STEPS,
    ),
    "gpu": GPU,
    "tpu": GPU._replace(precision="bfloat16"),
}
