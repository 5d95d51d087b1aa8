"""Checks every checkpoint of a run against the checksums saved with it.

    python -m rnnmnist.verify --workdir=checkpoints/reference

The exit code is 1 if a checkpoint is damaged.
"""

from rnnmnist import cli, errors


def main(argv: list[str]) -> None:
    """Prints a line for each step."""
    parser = cli.Parser("verify", __doc__)
    parser.add_workdir()
    workdir = parser.parse(argv).workdir
    import jax

    from rnnmnist.runs import checkpoints
    from rnnmnist.runs.workdir import list_steps

    # A trainer may hold the accelerator, and nothing is compiled.
    jax.config.update("jax_platforms", "cpu")
    checkpoints.find_step(workdir, "latest")  # refuses a folder without checkpoints
    bad = []
    for step in list_steps(workdir):
        fault = checkpoints.find_fault(workdir, step)
        if fault is not None:
            if not checkpoints.remains(workdir / str(step)):
                continue
            bad.append(str(step))
        print(f"step {step}  {'good' if fault is None else f'bad: {fault}'}")
    if bad:
        raise errors.RunError(f"damaged in {workdir}: step {', '.join(bad)}")


if __name__ == "__main__":
    cli.run(main)
