"""Writes the plots and the report page of a run.

    rnnmnist report --workdir=checkpoints/reference

The report is written to DIR/report.
"""

from rnnmnist.commands.command_line import Parser, open_run


def main(argv: list[str]) -> None:
    """Writes the report, and prints the result and the files."""
    parser = Parser("report", __doc__)
    parser.add_workdir(required=True)
    parser.add_step_and_settings()
    args = parser.parse(argv)
    from rnnmnist.evaluation.formatting import (
        format_accuracy,
        format_loss,
        format_split,
    )
    from rnnmnist.model import Model
    from rnnmnist.runtime.compilation import use_cpu

    use_cpu()
    written = Model(open_run(args)).report()
    scores = written.scores
    print(
        f"{scores.dataset} {format_split(scores.split)} at step {scores.step}: "
        f"{format_accuracy(scores)}, {format_loss(scores)}"
    )
    print(*written.pictures, written.page, sep="\n")
