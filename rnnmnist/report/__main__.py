"""Writes the plots and the report page of a run.

    rnnmnist report --workdir=checkpoints/reference

The report is written to DIR/report.
"""

from rnnmnist import cli
from rnnmnist.report import report


def main(argv: list[str]) -> None:
    """Writes the report, and prints the result and the files."""
    parser = cli.Parser("report", __doc__)
    parser.add_workdir()
    parser.add_step_and_paths()
    args = parser.parse(argv)
    from rnnmnist.evaluation.metrics import (
        format_accuracies,
        format_split,
    )
    from rnnmnist.runtime.compilation import use_cpu

    use_cpu()
    written = report(
        args.workdir,
        selector=args.step,
        paths=cli.parse_settings(args),
        cell=args.cell,
    )
    print(
        f"{written.dataset} {format_split(written.split)} at step {written.step}: "
        f"{format_accuracies(written.scores)}, loss {written.scores.loss:.4f}"
    )
    print(*written.pictures, written.page, sep="\n")


if __name__ == "__main__":
    cli.run(main)
