"""Evaluates a checkpoint on all examples of a split.

    rnnmnist evaluate --workdir=checkpoints/reference --split=test

The configuration of the model and the data is read from the checkpoint.
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
        help="split to evaluate (default: test, or validation if there is no test "
        "split; if there is neither, filters are evaluated by leave-one-out, and "
        "trained networks on train)",
    )
    args = parser.parse(argv)
    from rnnmnist.evaluation.formatting import format_result
    from rnnmnist.runtime.compilation import enable_compilation_cache

    enable_compilation_cache()
    model = open_model(args)
    result = model.evaluate(args.split)
    print(format_result(result))
    path = Path(f"{model.workdir}/{result.path}")
    if path.exists():  # results are not saved in a read-only workdir
        print(path)
