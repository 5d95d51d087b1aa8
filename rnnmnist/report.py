"""Writes the plots and the report page of a run.

    python -m rnnmnist.report --workdir=checkpoints/reference

The report is written to DIR/report.
"""

import shlex

from rnnmnist import cli


def main(argv: list[str]) -> None:
    """Writes the report, and prints the result and the files."""
    parser = cli.Parser("report", __doc__)
    parser.add_workdir()
    parser.add_step_and_paths()
    args = parser.parse(argv)
    from rnnmnist.evaluation.metrics import format_accuracies
    from rnnmnist.reporting.pages import load_run_data, report_run
    from rnnmnist.runtime.compilation import use_cpu

    use_cpu()
    command = shlex.join(["python", "-m", "rnnmnist.report", *argv])
    run = load_run_data(args.workdir, args.step, cli.parse_settings(args), args.cell)
    print(
        f"{run.task.name} {run.split} at step {run.network.checkpoint_step}: "
        f"{format_accuracies(run.scores)}, loss {run.scores.loss:.4f}"
    )
    print(*report_run(run, command), sep="\n")


if __name__ == "__main__":
    cli.run(main)
