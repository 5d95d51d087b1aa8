"""Evaluates a checkpoint on a whole split; model and data follow from it alone.

python -m rnnmnist.evaluate --workdir=checkpoints/reference --split=test
"""

import argparse

from rnnmnist import errors
from rnnmnist.config.command_line import Parser, data_paths


def parse(argv: list[str]) -> argparse.Namespace:
    """Parses the command line."""
    parser = Parser("evaluate", __doc__)
    parser.add_workdir()
    parser.add_step()
    parser.add_argument(
        "--split", default="test", choices=["train", "validation", "test"]
    )
    parser.add_data_paths()
    return parser.parse(argv)


def main(argv: list[str]) -> None:
    """Evaluates as the command line says; prints and writes the result."""
    args = parse(argv)
    from rnnmnist.checkpoints import store
    from rnnmnist.checkpoints.selection import with_step
    from rnnmnist.evaluation import results
    from rnnmnist.runtime.compilation import enable_compilation_cache
    from rnnmnist.runtime.mesh import make_mesh, set_cpu_devices

    workdir = args.workdir
    config = with_step(
        workdir, args.step, lambda step: store.read_config(workdir, step)
    )
    enable_compilation_cache()
    set_cpu_devices(config.train.batch_size, None, config.num_seeds, 1)
    mesh = make_mesh(config.train.batch_size, None, config.num_seeds)
    document = results.evaluate_run(
        workdir, args.step, args.split, data_paths(args), mesh
    )
    step = document["step"]
    print(
        f"{document['dataset']} {args.split} at step {step}: "
        f"{results.describe(document)}, loss {document['loss']:.4f}",
        *results.describe_members(document),
        results.result_path(workdir, args.split, step),
        sep="\n",
    )


if __name__ == "__main__":
    errors.run(main)
