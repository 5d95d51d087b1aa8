"""Evaluates a checkpoint on a whole split.

    python -m rnnmnist.evaluate --workdir=checkpoints/reference --split=test

The checkpoint contains its configuration; no other flag describes the model or data.
"""

from rnnmnist import cli


def main(argv: list[str]) -> None:
    """Evaluates a checkpoint, and prints and writes the result."""
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
    from rnnmnist.evaluation.network import TrainedNetwork
    from rnnmnist.runs.checkpoint_files import read_header
    from rnnmnist.runs.results import write_result
    from rnnmnist.runs.selection import read_selected_step
    from rnnmnist.runtime.compilation import enable_compilation_cache
    from rnnmnist.runtime.mesh import make_mesh

    workdir = args.workdir
    header = read_selected_step(
        workdir, args.step, lambda step: read_header(workdir, step)
    )
    config = header.config
    enable_compilation_cache()
    mesh = make_mesh(config.sharded_batch, None, config.num_seeds)
    network = TrainedNetwork(
        workdir, args.step, mesh, cli.parse_settings(args), args.cell
    )
    result = network.score(*network.load_split(args.split))
    path = write_result(workdir, result)
    print(
        f"{result.dataset} {result.split} at step {result.step}: "
        f"{format_result(result)}, loss {result.loss:.4f}"
    )
    for member in result.members:
        print(f"seed {member.seed}: {format_accuracy(member)}")
    print(path)


if __name__ == "__main__":
    cli.run(main)
