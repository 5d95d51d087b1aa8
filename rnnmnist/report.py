"""Writes the plots and the report page of a run, and compares several runs.

    python -m rnnmnist.report --workdir=checkpoints/reference
    python -m rnnmnist.report --workdir=runs/a --workdir=runs/b

The report is written to DIR/report, and the comparison to report beside the runs.
"""

import shlex

from rnnmnist import cli


def main(argv: list[str]) -> None:
    """Writes the reports, and prints each result and file."""
    parser = cli.Parser("report", __doc__)
    parser.add_workdir(action="append", help="folder of a run; repeat it to compare")
    parser.add_step_and_paths()
    args = parser.parse(argv)
    from rnnmnist.evaluation.metrics import format_accuracy, percent
    from rnnmnist.reporting.pages import compare_runs, load_run_data, report_run
    from rnnmnist.runs.checkpoints import find_step
    from rnnmnist.runtime.compilation import use_cpu

    use_cpu()
    command = shlex.join(["python", "-m", "rnnmnist.report", *argv])
    for workdir in args.workdir:  # fail before the slow work
        find_step(workdir, args.step)
    runs = []
    for workdir in args.workdir:
        run = load_run_data(workdir, args.step, cli.parse_settings(args))
        print(
            f"{run.task.name} {run.split} at step {run.network.checkpoint_step}: "
            f"{format_accuracy(run.scores)}, balanced accuracy "
            f"{percent(run.scores.balanced_accuracy)}, loss {run.scores.loss:.4f}"
        )
        print(*report_run(run, command), sep="\n", flush=True)
        runs.append(run)
    if len(runs) > 1:
        print(*compare_runs(runs, command), sep="\n")


if __name__ == "__main__":
    cli.run(main)
