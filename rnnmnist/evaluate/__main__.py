"""Evaluates a checkpoint on a whole split.

    python -m rnnmnist.evaluate --workdir=checkpoints/reference --split=test

The checkpoint contains its configuration; no other flag describes the model or data.
"""

from rnnmnist import cli
from rnnmnist.evaluate import evaluate


def main(argv: list[str]) -> None:
    """Evaluates a checkpoint, and prints the result and the name of its file."""
    parser = cli.Parser("evaluate", __doc__)
    parser.add_workdir()
    parser.add_argument(
        "--split",
        choices=["train", "validation", "test"],
        help="the split to evaluate (default: test; without one, validation or train)",
    )
    parser.add_step_and_paths()
    args = parser.parse(argv)
    from rnnmnist.evaluation.metrics import format_accuracy, format_result
    from rnnmnist.runs.results import path_of
    from rnnmnist.runtime.compilation import enable_compilation_cache

    enable_compilation_cache()
    result = evaluate(
        args.workdir,
        args.split,
        selector=args.step,
        paths=cli.parse_settings(args),
        cell=args.cell,
    )
    print(
        f"{result.dataset} {result.split} at step {result.step}: "
        f"{format_result(result)}, loss {result.loss:.4f}"
    )
    for member in result.members:
        print(f"seed {member.seed}: {format_accuracy(member)}")
    print(path_of(result, args.workdir))


if __name__ == "__main__":
    cli.run(main)
