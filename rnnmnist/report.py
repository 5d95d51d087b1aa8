"""Draws the pictures and the report page of a run, and compares several.

    python -m rnnmnist.report --workdir=checkpoints/reference
    python -m rnnmnist.report --workdir=runs/a --workdir=runs/b

Writes into DIR/report; the comparison into report beside the runs.
"""

import datetime
import shlex

from rnnmnist import errors
from rnnmnist.config import command_line


def main(arguments: list[str]) -> None:
    """Writes what the command line asks for; prints each result and file."""
    wanted = command_line.parse_report(arguments, __doc__ or "")
    import jax

    from rnnmnist.checkpoints.selection import find_step
    from rnnmnist.evaluation import results
    from rnnmnist.reporting import comparison, pages
    from rnnmnist.reporting.run_data import gather
    from rnnmnist.runtime.compilation import keep_programs

    # A few seconds' work, beside a trainer that may hold the accelerator.
    jax.config.update("jax_platforms", "cpu")
    keep_programs()
    occasion = pages.Occasion(
        shlex.join(["python", "-m", "rnnmnist.report", *arguments]),
        datetime.datetime.now().astimezone(),
    )
    workdirs, together = wanted.workdirs, comparison.place_of(wanted.workdirs)
    folders = [workdir / "report" for workdir in workdirs]
    for workdir in workdirs:  # before anything slow
        find_step(workdir, wanted.step)
    for folder in [*folders, *([together] if len(workdirs) > 1 else [])]:
        pages.check_place(folder)
    runs = []
    for workdir, folder in zip(workdirs, folders, strict=True):
        run = gather(workdir, wanted.step, wanted.places)
        print(
            f"{run.test['dataset']} test at step {run.step}: "
            f"{results.describe(run.test)}, loss {run.test['loss']:.4f}"
        )
        page = pages.report_page(run, occasion)
        print(*pages.write_files(folder, page), sep="\n", flush=True)
        runs.append(run)
    if len(runs) > 1:
        page = comparison.comparison_page(runs, together, occasion)
        print(*pages.write_files(together, page), sep="\n")


if __name__ == "__main__":
    errors.run(main)
