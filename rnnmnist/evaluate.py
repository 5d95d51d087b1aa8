"""Evaluates a checkpoint on a whole split; model and data follow from it alone.

python -m rnnmnist.evaluate --workdir=checkpoints/reference --split=test
"""

from rnnmnist import errors, flags


def main(arguments: list[str]) -> None:
    """Evaluates as the command line says; prints and writes the result."""
    wanted = flags.parse_evaluation(arguments, __doc__ or "")
    from rnnmnist import checkpoint, evaluation
    from rnnmnist.compilation import keep_programs
    from rnnmnist.mesh import make_mesh, set_cpu_devices
    from rnnmnist.steps import with_step

    workdir = wanted.workdir
    config = with_step(
        workdir, wanted.step, lambda step: checkpoint.read_config(workdir, step)
    )
    keep_programs()
    set_cpu_devices(config.train.batch_size, None, config.num_seeds, 1)
    mesh = make_mesh(config.train.batch_size, None, config.num_seeds)
    document = evaluation.evaluate_run(
        workdir, wanted.step, wanted.split, wanted.places, mesh
    )
    step = document["step"]
    print(
        f"{document['dataset']} {wanted.split} at step {step}: "
        f"{evaluation.describe(document)}, loss {document['loss']:.4f}",
        *evaluation.describe_members(document),
        evaluation.result_path(workdir, wanted.split, step),
        sep="\n",
    )


if __name__ == "__main__":
    errors.run(main)
