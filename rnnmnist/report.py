"""Writes the plots and the report page of a run, and compares several runs.

    python -m rnnmnist.report --workdir=checkpoints/reference
    python -m rnnmnist.report --workdir=runs/a --workdir=runs/b

The report is written to DIR/report, and the comparison to report beside the runs.
"""

import argparse
import datetime
import shlex

from rnnmnist import cli
from rnnmnist.cli import Parser, parse_settings


def parse(argv: list[str]) -> argparse.Namespace:
    """Parses the command line."""
    parser = Parser("report", __doc__)
    parser.add_workdir(
        action="append", help="folder of the run; repeat it to compare runs"
    )
    parser.add_step()
    parser.add_data_paths()
    args = parser.parse(argv)
    cli.check_distinct(args.workdir)
    return args


def main(argv: list[str]) -> None:
    """Writes the reports, and prints each result and file."""
    args = parse(argv)
    from rnnmnist.evaluation.metrics import format_accuracy, percent
    from rnnmnist.reporting import comparison, pages
    from rnnmnist.reporting.run_data import load_run_data
    from rnnmnist.reporting.sections import report_page
    from rnnmnist.runs.checkpoints import find_step
    from rnnmnist.runtime.compilation import use_cpu

    use_cpu()
    command = shlex.join(["python", "-m", "rnnmnist.report", *argv])
    provenance = pages.provenance(command, datetime.datetime.now().astimezone())
    for workdir in args.workdir:  # fail before the slow work
        find_step(workdir, args.step)
    runs = []
    for workdir in args.workdir:
        run = load_run_data(workdir, args.step, parse_settings(args))
        print(
            f"{run.task.name} {run.split} at step {run.step}: "
            f"{format_accuracy(run.scores)}, balanced accuracy "
            f"{percent(run.scores.balanced_accuracy)}, loss {run.scores.loss:.4f}"
        )
        files = report_page(run, provenance)
        print(*pages.write_files(workdir / "report", files), sep="\n", flush=True)
        runs.append(run)
    if len(runs) > 1:
        folder = comparison.comparison_folder(args.workdir)
        files = comparison.comparison_page(runs, folder, provenance)
        print(*pages.write_files(folder, files), sep="\n")


if __name__ == "__main__":
    cli.run(main)
