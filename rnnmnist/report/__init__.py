"""The function `rnnmnist.report`; `python -m rnnmnist.report` runs `__main__`.

The package `rnnmnist` imports this module, so that `rnnmnist.report` is the function
after any imports. Libraries are therefore imported in the function.
"""

from collections.abc import Mapping
from pathlib import Path

TYPE_CHECKING = False  # as in the package `rnnmnist`
if TYPE_CHECKING:
    from rnnmnist.reporting.pages import Report


def report(
    workdir: str | Path,
    *,
    selector: str | int = "best",
    paths: Mapping[str, str | Path | None] = {},
    cell: str | None = None,
) -> "Report":
    """Writes the report page of a run and its pictures into the folder `report` of it.

    It computes on a CPU device, if jax has one.

    Args:
        workdir: the folder of the run.
        selector: `best`, `latest` or the number of a step.
        paths: as for `rnnmnist.evaluate`.
        cell: as for `rnnmnist.Predictor`.

    Returns:
        The scores on the evaluated split, and the paths of the files.

    Raises:
        UserError: if there is no such run or data, the cell is not that of the run, or
            no temporary folder can be written.
        RunError: if a checkpoint is damaged, or logits are not finite.
        OSError: if a file cannot be read or written.
    """
    from rnnmnist.config.files import resolve_workdir
    from rnnmnist.errors import as_failure

    try:
        from rnnmnist.reporting.pages import Report, load_run_data, report_run
    except OSError as error:  # matplotlib can write no temporary folder
        raise as_failure(error) or error from None
    from rnnmnist.runtime.compilation import enable_default_cache
    from rnnmnist.runtime.jax_defaults import refuse_fork
    from rnnmnist.runtime.library_logs import without_library_logs

    refuse_fork()
    folder = resolve_workdir(str(workdir))
    with without_library_logs():
        enable_default_cache()
        run = load_run_data(folder, str(selector), paths, cell)
        command = _format_command(folder, str(selector), paths, cell)
        *pictures, page = report_run(run, command)
    return Report(
        dataset=run.task.name,
        split=run.split,
        step=run.network.checkpoint_step,
        scores=run.scores,
        pictures=tuple(pictures),
        page=page,
    )


def _format_command(
    folder: Path,
    selector: str,
    paths: Mapping[str, str | Path | None],
    cell: str | None,
) -> str:
    """Returns the command line that writes the same report."""
    import shlex

    if folder.is_relative_to(Path.cwd()):
        folder = folder.relative_to(Path.cwd())
    flags = [f"--workdir={folder}"]
    if selector != "best":
        flags.append(f"--step={selector}")
    for name, value in paths.items():
        if value is not None:
            flags.append(f"--config.{name}={value}")
    if cell is not None:
        flags.append(f"--config.model.cell={cell}")
    return shlex.join(["rnnmnist", "report", *flags])
