"""The function `rnnmnist.evaluate`; `python -m rnnmnist.evaluate` runs `__main__`.

The package `rnnmnist` imports this module, so that `rnnmnist.evaluate` is the function
after any imports. Libraries are therefore imported in the function.
"""

from collections.abc import Mapping
from pathlib import Path

TYPE_CHECKING = False  # as in the package `rnnmnist`
if TYPE_CHECKING:
    from typing import Literal

    from rnnmnist.runs.results import Result


def evaluate(
    workdir: str | Path,
    split: "Literal['train', 'validation', 'test'] | None" = None,
    *,
    selector: str | int = "best",
    paths: Mapping[str, str | Path | None] = {},
    cell: str | None = None,
) -> "Result":
    """Evaluates a checkpoint on a whole split, and writes the result into its workdir.

    It uses all devices that help, and sets what `rnnmnist.fit` sets if jax has no
    devices yet.

    Args:
        workdir: the folder of the run.
        split: `train`, `validation` or `test`. None is `test`, or, in a run without
            one, `validation`. If nothing was held out, it is the leave-one-out
            predictions of random filters, and `train` of a trained network.
        selector: `best`, `latest` or the number of a step.
        paths: the values of settings with paths of data, by the names of the settings:
            of data that have moved since the training, or, as `data.path`, of other
            sequences to evaluate on; also another `data.columns`.
        cell: the `module:Class` or `FILE.py:Class` of your own cell, as for
            `rnnmnist.Predictor`.

    Returns:
        The scores, as in the result file. Accuracies are fractions, and losses are in
        nats. In a read-only workdir, no file is written, and a warning is logged.

    Raises:
        UserError: if there is no such run, split or data, or the cell is not that of
            the run.
        RunError: if a checkpoint is damaged, or logits are not finite.
        OSError: if data cannot be read, or the result cannot be written.
    """
    from rnnmnist.config.files import resolve_workdir
    from rnnmnist.evaluation.left_out import load_evaluated
    from rnnmnist.evaluation.network import TrainedNetwork
    from rnnmnist.runs.checkpoint_files import read_header
    from rnnmnist.runs.results import write_result
    from rnnmnist.runs.selection import read_selected_step
    from rnnmnist.runtime.compilation import enable_default_cache
    from rnnmnist.runtime.jax_defaults import refuse_fork
    from rnnmnist.runtime.library_logs import without_library_logs
    from rnnmnist.runtime.mesh import make_mesh

    refuse_fork()
    folder = resolve_workdir(str(workdir))
    header = read_selected_step(
        folder, str(selector), lambda step: read_header(folder, step)
    )
    config = header.config
    with without_library_logs():
        enable_default_cache()
        mesh = make_mesh(config.sharded_batch, None, config.num_seeds)
        network = TrainedNetwork(folder, str(selector), mesh, paths, cell)
        result = network.score(*load_evaluated(network, split))
    write_result(folder, result)
    return result
