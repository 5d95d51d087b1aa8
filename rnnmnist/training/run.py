"""Trains, evaluates and summarizes a run."""

import contextlib
import time

from rnnmnist.evaluation.leave_one_out import format_table
from rnnmnist.evaluation.logit_metrics import evaluate_logits
from rnnmnist.evaluation.network import Network
from rnnmnist.evaluation.splits import load_evaluated
from rnnmnist.runtime.compilation import compile_seconds
from rnnmnist.runtime.distributed import is_process_0
from rnnmnist.runtime.jax_defaults import jax_defaults
from rnnmnist.runtime.signals import StopFlag
from rnnmnist.training import console
from rnnmnist.training.resume import Run
from rnnmnist.training.validation import Callback


@jax_defaults()
def train_and_evaluate(
    run: Run,
    stop_context: contextlib.AbstractContextManager[StopFlag],
    *,
    verbose: bool = True,
    callback: Callback | None = None,
) -> None:
    """Trains or resumes a run, evaluates it, and prints a summary.

    A complete run is only evaluated.

    Args:
        run: the run, opened by `open_run`.
        stop_context: context manager that handles signals during training, and yields a
            flag that a signal sets.
        verbose: whether to print progress and the summary.
        callback: called with the metrics of each validation; training stops if the
            callback returns True. Not called during a fit in closed form.
    """
    start_time, start_compile_seconds = time.monotonic(), compile_seconds()
    config, task, record = run.config, run.dataset.task, run.record
    step = record.step
    progress = console.Progress(config.train, task, verbose=verbose)
    progress.write(console.describe_run(run))
    record.begin(config if run.completion is None else None)
    if run.completion is None:
        with stop_context as stop:
            # Only the modules that this run needs are imported.
            if config.model.is_closed_form:
                from rnnmnist.training.closed_form import fit_in_closed_form

                step = fit_in_closed_form(run, stop, progress)
            else:
                from rnnmnist.training.loop import train_loop

                step = train_loop(run, stop, progress, callback)
    network = Network(record, "best", config.model.custom_functions)
    _, split, examples, logits = load_evaluated(network, dataset=run.dataset)
    table = None
    if logits is not None:  # leave-one-out logits
        table = format_table(config.seeds, task, examples, logits)
    elif split != "train":
        logits = network.on(run.mesh).logits(examples)
    result = None
    if logits is not None:
        result = evaluate_logits(network, task, split, examples, logits)
        record.save_result(result, table)
    if is_process_0():
        summary = console.summarize(
            run,
            step,
            result,
            seconds=time.monotonic() - start_time,
            compile_seconds=compile_seconds() - start_compile_seconds,
        )
        progress.write(summary)
