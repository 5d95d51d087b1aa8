"""Checks every checkpoint of a run against the sums that were saved with it.

    python -m rnnmnist.verify --workdir=checkpoints/reference

Exits with 1 if one is damaged.
"""

from rnnmnist import errors
from rnnmnist.config.command_line import Parser


def main(argv: list[str]) -> None:
    """Prints a line for each step; raises if one of them is bad."""
    parser = Parser("verify", __doc__)
    parser.add_workdir()
    workdir = parser.parse(argv).workdir
    import jax

    from rnnmnist.checkpoints.verification import verify

    # Sums need no accelerator, which a trainer beside us may hold.
    jax.config.update("jax_platforms", "cpu")
    faults = verify(workdir)
    for step, fault in faults.items():
        print(f"step {step}  {'good' if fault is None else f'bad: {fault}'}")
    bad = [str(step) for step, fault in faults.items() if fault is not None]
    if bad:
        raise errors.RunError(f"damaged in {workdir}: step {', '.join(bad)}")


if __name__ == "__main__":
    errors.run(main)
