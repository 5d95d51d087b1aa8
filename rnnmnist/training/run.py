"""A run from its start, or its newest checkpoint, to its summary."""

import contextlib
import time
from pathlib import Path

from jax.sharding import Mesh

from rnnmnist.data.examples import Dataset
from rnnmnist.evaluation.scoring import score_split
from rnnmnist.evaluation.trained_run import TrainedRun
from rnnmnist.runs import logs
from rnnmnist.runs.checkpoint_files import repair
from rnnmnist.runs.results import Result, write_result
from rnnmnist.runs.selection import select
from rnnmnist.runs.writing import write_json
from rnnmnist.runtime.compilation import compile_seconds
from rnnmnist.runtime.distributed import broadcast, is_process_0
from rnnmnist.runtime.jax_defaults import jax_defaults
from rnnmnist.runtime.signals import StopFlag
from rnnmnist.training import console
from rnnmnist.training.events import Callback
from rnnmnist.training.resume import Run


@jax_defaults()
def train_and_evaluate(
    run: Run,
    stop_context: contextlib.AbstractContextManager[StopFlag],
    *,
    verbose: bool = True,
    callback: Callback | None = None,
) -> None:
    """Trains, or resumes from the newest checkpoint; evaluates; prints a summary.

    A complete run is only evaluated.

    Args:
        run: the run, which `open_run` has checked.
        stop_context: a context that handles signals during the updates, and yields the
            flag that they set.
        verbose: whether progress and the summary are printed.
        callback: a function that is called with the metrics of each validation. If it
            returns True, the run ends there. A fit in closed form does not call it.
    """
    started, compiled = time.monotonic(), compile_seconds()
    workdir, config, dataset, mesh, step, completion, _ = run
    task = dataset.task
    if verbose:
        console.print_header(run)
    if is_process_0():
        repair(workdir)
    if completion is None:
        if is_process_0():
            write_json(workdir / "config.json", config)
            logs.remove_metrics_after(workdir, step)
        progress = console.Progress(config.train, task, verbose=verbose)
        with stop_context as stop:
            if config.model.fitting == "closed_form":
                from rnnmnist.training.closed_form import fit_in_closed_form

                fit_in_closed_form(config, dataset, workdir, mesh, stop, progress)
                step = config.train.num_steps
            else:
                from rnnmnist.training.loop import loop_over_events

                step = loop_over_events(
                    config,
                    dataset,
                    workdir,
                    mesh=mesh,
                    step=step,
                    stop=stop,
                    progress=progress,
                    callback=callback,
                )
    result = None
    if task.evaluated_split != "train":  # there is a test or validation split
        result = evaluate_best_checkpoint(workdir, mesh, dataset, config.model.cell)
    if is_process_0() and verbose:
        console.print_summary(
            workdir,
            step,
            config,
            result,
            seconds=time.monotonic() - started,
            compiling=compile_seconds() - compiled,
        )


def evaluate_best_checkpoint(
    workdir: Path, mesh: Mesh, dataset: Dataset, cell: str
) -> Result:
    """Evaluates the best checkpoint on `evaluated_split`, and writes the result.

    `cell` is the setting `model.cell`. A user's own cell is imported because the
    configuration of this run names it, never because the checkpoint does.
    """
    best = broadcast(lambda: select(workdir, "best").step)
    run = TrainedRun(workdir, str(best), {"model.cell": cell})
    task, splits = dataset
    examples = splits[task.evaluated_split]
    logits = run.make_network(mesh).logits(examples)
    result = score_split(run, task, task.evaluated_split, examples, logits)
    if is_process_0():
        write_result(workdir, result)
    return result
