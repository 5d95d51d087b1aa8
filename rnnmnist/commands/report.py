"""Writes the plots and the report page of a run.

    rnnmnist report --workdir=checkpoints/reference

The files are written to the folder DIR/report.
"""

from rnnmnist.commands.command_line import Parser, open_model


def main(argv: list[str]) -> None:
    """Writes the report, and prints the result and the paths of all files."""
    parser = Parser("report", __doc__)
    parser.add_run_arguments(required=True)
    args = parser.parse(argv)
    from rnnmnist.evaluation.formatting import format_result
    from rnnmnist.runtime.compilation import use_cpu

    use_cpu()
    report = open_model(args).report()
    print(format_result(report.result))
    print(*report.plots, report.page, sep="\n")
