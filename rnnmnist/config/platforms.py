"""How programs run on each platform: choices that affect speed, memory and rounding."""

from typing import NamedTuple

from rnnmnist.config.schema import Config

MOST_CPU_DEVICES = 8  # per process; with more, their sums cost more than they save


class Execution(NamedTuple):
    """How the programs of a run are compiled for a platform."""

    unroll: int  # steps of the recurrence per iteration of its loop
    precision: str  # of matrix products, as for `jax.default_matmul_precision`
    vectorize_seeds: bool  # whether a device computes its networks together
    eval_batch_size: int  # examples that a device evaluates at a time
    # Steps of a linear recurrence that are computed together, in turn; None: all steps,
    # by a parallel scan.
    block_steps: int | None = None

    def describe(self) -> str:
        """Describes the choices in one line."""
        steps = "one step" if self.unroll == 1 else f"up to {self.unroll} steps"
        seeds = "together" if self.vectorize_seeds else "in turn"
        blocks = (
            f"in blocks of {self.block_steps} steps"
            if self.block_steps
            else "in parallel"
        )
        return (
            f"{steps} per iteration, {self.precision} products, seeds {seeds}, "
            f"evaluation of {self.eval_batch_size:,} examples per device, "
            f"linear recurrences {blocks}"
        )


# A CPU device computes its networks in turn, since one already uses its cores. It
# evaluates as many examples, and computes as many steps of a linear recurrence, as fit
# its cache. An accelerator launches every operation of a loop anew, which unrolling and
# a parallel scan avoid.
DEFAULTS = {
    "cpu": Execution(
        1, "float32", vectorize_seeds=False, eval_batch_size=64, block_steps=4
    ),
    "gpu": Execution(32, "tensorfloat32", vectorize_seeds=True, eval_batch_size=1024),
    "tpu": Execution(32, "bfloat16", vectorize_seeds=True, eval_batch_size=1024),
}


def execution_of(config: Config, platform: str) -> Execution:
    """Returns how a run executes on a platform, with the choices of its settings.

    `platform` is that of jax's devices. It need not be present.
    """
    settings = {
        "unroll": config.model.unroll,
        "precision": config.model.precision,
        "vectorize_seeds": config.train.vectorize_seeds,
        "eval_batch_size": config.train.eval_batch_size,
    }
    given = {k: value for k, value in settings.items() if value not in (None, "auto")}
    default = DEFAULTS.get(platform, DEFAULTS["gpu"])  # cuda and rocm are GPUs
    return default._replace(**given)  # type: ignore[arg-type]
