"""Evaluates a checkpoint on a whole split.

    rnnmnist evaluate --workdir=checkpoints/reference --split=test

The checkpoint contains its configuration; no other flag describes the model or data.
"""

from rnnmnist.commands.command_line import Parser, open_run


def main(argv: list[str]) -> None:
    """Evaluates a checkpoint, and prints the result and the name of its file."""
    parser = Parser("evaluate", __doc__)
    parser.add_workdir(required=True)
    parser.add_argument(
        "--split",
        choices=["train", "validation", "test"],
        help="the split to evaluate (default: test; without one, validation; without "
        "both, the leave-one-out predictions of filters, or train)",
    )
    parser.add_step_and_settings()
    args = parser.parse(argv)
    from rnnmnist.evaluation.metrics import (
        format_accuracy,
        format_result,
        format_split,
    )
    from rnnmnist.model import Model
    from rnnmnist.runs.results import loss_note, path_of
    from rnnmnist.runtime.compilation import enable_compilation_cache

    enable_compilation_cache()
    model = Model(open_run(args))
    result = model.evaluate(args.split)
    sha256 = None if result.task is None else result.task.sha256
    is_of_run = sha256 == result.trained_on_sha256
    note = loss_note(result.split, result.multiplier, is_of_run=is_of_run)
    loss = f"loss {result.loss:.4f}{note}"
    if result.ensemble_loss is not None:
        loss = f"mean loss {result.loss:.4f}"  # of networks without the multiplier
    print(
        f"{result.dataset} {format_split(result.split)} at step {result.step}: "
        f"{format_result(result, note)}, {loss}"
    )
    for member in result.members:
        print(f"seed {member.seed}: {format_accuracy(member)}")
    print(path_of(result, model.workdir))
