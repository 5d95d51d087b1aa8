"""Draws the pictures and the report page of a run, and compares several.

    python -m rnnmnist.report --workdir=checkpoints/reference
    python -m rnnmnist.report --workdir=runs/a --workdir=runs/b

Writes into DIR/report; the comparison into report beside the runs.
"""

import argparse
import datetime
import shlex

from rnnmnist import errors
from rnnmnist.config.command_line import Parser, data_paths


def parse(argv: list[str]) -> argparse.Namespace:
    """Parses the command line.

    Raises:
        UserError: for a wrong flag or value, or a workdir that is given twice.
    """
    parser = Parser("report", __doc__)
    parser.add_workdir(
        action="append", help="of the run; give several to compare the runs"
    )
    parser.add_step()
    parser.add_data_paths()
    args = parser.parse(argv)
    for workdir in args.workdir:
        if args.workdir.count(workdir) > 1:
            raise errors.UserError(f"--workdir: {workdir} is given more than once")
    return args


def main(argv: list[str]) -> None:
    """Writes what the command line asks for; prints each result and file."""
    args = parse(argv)
    import jax

    from rnnmnist.checkpoints.selection import find_step
    from rnnmnist.evaluation import results
    from rnnmnist.reporting import comparison, pages
    from rnnmnist.reporting.run_data import load_run_data
    from rnnmnist.runtime.compilation import enable_compilation_cache

    # A few seconds' work, beside a trainer that may hold the accelerator.
    jax.config.update("jax_platforms", "cpu")
    enable_compilation_cache()
    occasion = pages.ReportContext(
        shlex.join(["python", "-m", "rnnmnist.report", *argv]),
        datetime.datetime.now().astimezone(),
    )
    workdirs, together = args.workdir, comparison.place_of(args.workdir)
    folders = [workdir / "report" for workdir in workdirs]
    for workdir in workdirs:  # before anything slow
        find_step(workdir, args.step)
    for folder in [*folders, *([together] if len(workdirs) > 1 else [])]:
        pages.check_place(folder)
    runs = []
    for workdir, folder in zip(workdirs, folders, strict=True):
        run = load_run_data(workdir, args.step, data_paths(args))
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
