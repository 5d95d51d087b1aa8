"""Checks every checkpoint of a run against the checksums saved with it.

    python -m rnnmnist.verify --workdir=checkpoints/reference

The exit code is 1 if a checkpoint is damaged.
"""

from rnnmnist import cli, errors
from rnnmnist.cli import Parser


def main(argv: list[str]) -> None:
    """Prints a line for each step."""
    parser = Parser("verify", __doc__)
    parser.add_workdir()
    workdir = parser.parse(argv).workdir
    import jax

    from rnnmnist.checkpoints.verification import verify

    # A trainer may hold the accelerator, and nothing is compiled.
    jax.config.update("jax_platforms", "cpu")
    faults = verify(workdir)
    for step, fault in faults.items():
        print(f"step {step}  {'good' if fault is None else f'bad: {fault}'}")
    bad = [str(step) for step, fault in faults.items() if fault is not None]
    if bad:
        raise errors.RunError(f"damaged in {workdir}: step {', '.join(bad)}")


if __name__ == "__main__":
    cli.run(main)
