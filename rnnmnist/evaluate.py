"""Evaluates a checkpoint on a whole split; model and data follow from it alone.

python -m rnnmnist.evaluate --workdir=checkpoints/reference --split=test
"""

from rnnmnist import errors
from rnnmnist.config import command_line


def main(arguments: list[str]) -> None:
    """Evaluates as the command line says; prints and writes the result."""
    wanted = command_line.parse_evaluation(arguments, __doc__ or "")
    from rnnmnist.checkpoints import store
    from rnnmnist.checkpoints.selection import with_step
    from rnnmnist.evaluation import results
    from rnnmnist.runtime.compilation import keep_programs
    from rnnmnist.runtime.mesh import make_mesh, set_cpu_devices

    workdir = wanted.workdir
    config = with_step(
        workdir, wanted.step, lambda step: store.read_config(workdir, step)
    )
    keep_programs()
    set_cpu_devices(config.train.batch_size, None, config.num_seeds, 1)
    mesh = make_mesh(config.train.batch_size, None, config.num_seeds)
    document = results.evaluate_run(
        workdir, wanted.step, wanted.split, wanted.places, mesh
    )
    step = document["step"]
    print(
        f"{document['dataset']} {wanted.split} at step {step}: "
        f"{results.describe(document)}, loss {document['loss']:.4f}",
        *results.describe_members(document),
        results.result_path(workdir, wanted.split, step),
        sep="\n",
    )


if __name__ == "__main__":
    errors.run(main)
