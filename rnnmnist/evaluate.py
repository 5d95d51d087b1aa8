"""Evaluates a checkpoint on a whole split; model and data follow from it alone.

python -m rnnmnist.evaluate --workdir=checkpoints/reference --split=test
"""

from rnnmnist import errors, flags


def main(arguments: list[str]) -> None:
    """Evaluates as the command line says; prints and writes the result."""
    wanted = flags.parse_evaluation(arguments, __doc__ or "")
    from rnnmnist import checkpoint, data, evaluation
    from rnnmnist.compilation import keep_programs
    from rnnmnist.mesh import make_mesh, set_cpu_devices

    step = checkpoint.find_step(wanted.workdir, wanted.step)
    config = checkpoint.read_config(wanted.workdir, step).replace(wanted.places)
    keep_programs()
    set_cpu_devices(config.train.batch_size, None)
    mesh = make_mesh(config.train.batch_size, None)
    examples = data.load(config.data)[wanted.split]
    document = evaluation.evaluate_checkpoint(
        wanted.workdir, step, wanted.split, examples, config, mesh
    )
    print(
        f"{document['dataset']} {wanted.split} at step {step}: "
        f"{evaluation.describe(document)}, loss {document['loss']:.4f}\n"
        f"{evaluation.result_path(wanted.workdir, wanted.split, step)}"
    )


if __name__ == "__main__":
    errors.run(main)
