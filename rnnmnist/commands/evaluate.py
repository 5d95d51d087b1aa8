"""Evaluates a checkpoint on a whole split.

    rnnmnist evaluate --workdir=checkpoints/reference --split=test

The checkpoint contains its configuration, so no flags describe the model or the data.
"""

from pathlib import Path

from rnnmnist.commands.command_line import Parser, open_model


def main(argv: list[str]) -> None:
    """Evaluates a checkpoint, and prints the result and the path of the result file."""
    parser = Parser("evaluate", __doc__)
    parser.add_run_arguments(required=True)
    parser.add_argument(
        "--split",
        choices=["train", "validation", "test"],
        help="split to evaluate (default: test; without a test split, validation; "
        "without either, the leave-one-out predictions of filters, or else train)",
    )
    args = parser.parse(argv)
    from rnnmnist.evaluation.formatting import format_evaluation
    from rnnmnist.runtime.compilation import enable_compilation_cache

    enable_compilation_cache()
    model = open_model(args)
    result = model.evaluate(args.split)
    print(format_evaluation(result))
    path = Path(f"{model.workdir}/{result.path}")
    if path.exists():  # a read-only workdir has no result file
        print(path)
