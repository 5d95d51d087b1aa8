"""The training loop: restore, train to the next event, log, validate, save, repeat."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from rnnmnist.config.schema import DATA_PATHS, Config, TrainConfig
from rnnmnist.config.tasks import Task
from rnnmnist.data.batches import TrainingSplit
from rnnmnist.data.examples import Dataset
from rnnmnist.data.host import Chunk, HostSplit, open_training_split
from rnnmnist.data.views import View
from rnnmnist.errors import RunError, StoppedError, UserError, as_run_error
from rnnmnist.evaluation.accuracies import percent
from rnnmnist.evaluation.metrics import format_counts
from rnnmnist.evaluation.predictions import EvaluationSplit, evaluate
from rnnmnist.evaluation.restore import restore_model
from rnnmnist.evaluation.scoring import score
from rnnmnist.models.cells import check_user_cell
from rnnmnist.models.classifier import count_params
from rnnmnist.runs import logs, results
from rnnmnist.runs.checkpoints import Checkpoints
from rnnmnist.runs.checksums import params_sha256
from rnnmnist.runs.files import write_json
from rnnmnist.runs.logs import Metrics
from rnnmnist.runs.selection import find_step
from rnnmnist.runs.sessions import PhaseTimer, session
from rnnmnist.runs.workdir import lock
from rnnmnist.runtime.compilation import running_seconds
from rnnmnist.runtime.distributed import (
    all_gather,
    all_max,
    broadcast,
    is_process_0,
    process_count,
)
from rnnmnist.runtime.mesh import make_mesh
from rnnmnist.runtime.signals import StopFlag
from rnnmnist.training import console
from rnnmnist.training.optimizer import make_schedule
from rnnmnist.training.resume import (
    check_same_data,
    quarantine_damaged,
    step_to_resume,
    warn_of_changes,
)
from rnnmnist.training.state import (
    TrainState,
    create_state,
    restore_state,
    saved_arrays,
)
from rnnmnist.training.step import Program, UpdateSums, score_last_batch, train_range


@dataclasses.dataclass
class RunContext:
    """What the stages of a run share; it does not change between events."""

    config: Config
    task: Task
    workdir: Path
    program: Program
    split: TrainingSplit | HostSplit
    validation: EvaluationSplit
    validation_labels: np.ndarray
    progress: console.Progress
    checkpoints: Checkpoints

    def record(self, metrics: Metrics) -> None:
        """Appends a line to `metrics.jsonl`, once for all processes."""
        if is_process_0():
            logs.append(self.workdir, metrics)


def train(
    config: Config,
    dataset: Dataset,
    workdir: Path,
    stop: contextlib.AbstractContextManager[StopFlag] | None = None,
    *,
    timer: PhaseTimer | None = None,
    verbose: bool = True,
) -> None:
    """Trains, or resumes from the newest checkpoint; evaluates; prints a summary.

    Args:
        config: already fitted to the data set's task.
        dataset: the same on all processes.
        workdir: an absolute path; created if missing. A complete run in it is kept.
        stop: entered for the time of the updates; gives the flag that ends them.
        timer: started before the data were read.
        verbose: whether progress and summary are printed.
    """
    timer = timer or PhaseTimer()
    stop = contextlib.nullcontext(StopFlag()) if stop is None else stop
    check_same_run(config, dataset.task)
    check_user_cell(config.model)
    mesh = make_mesh(
        config.train.batch_size, config.execution.num_devices, config.num_seeds
    )
    with lock(workdir), report_file_errors(workdir):
        broadcast(lambda: quarantine_damaged(workdir))
        step = broadcast(lambda: step_to_resume(config, workdir))
        if step:
            check_same_data(dataset.task, workdir, step)
        if verbose:
            console.print_header(config, dataset.task, workdir, mesh, step)
        if step:
            warn_of_changes(config, workdir, step)
        if step < config.train.num_steps:
            with session(workdir, step, mesh, timer), timer.phase("train"):
                train_to_end(config, workdir, mesh, dataset, step, stop, verbose)
        result = evaluate_best_checkpoint(workdir, mesh, dataset)
    if is_process_0() and verbose:
        console.print_summary(config, workdir, result, timer.seconds())


def check_same_run(config: Config, task: Task) -> None:
    """Checks that all processes have the same data and, paths aside, settings."""
    settings = {"num_processes": process_count(), "data": task.sha256} | {
        name: value for name, value in config.flat().items() if name not in DATA_PATHS
    }
    first, *others = all_gather(settings)
    differing = [
        f"{name}={other[name]} on process {index} (process 0: {first[name]})"
        for index, other in enumerate(others, 1)
        for name in first
        if other[name] != first[name]
    ]
    if differing:
        raise UserError(
            f"{', '.join(differing)}: start all processes with the same settings"
        )


@contextlib.contextmanager
def report_file_errors(workdir: Path) -> Iterator[None]:
    """Names the last checkpoint where a read or write fails, as on a full disk."""
    try:
        yield
    except OSError as error:
        failure = as_run_error(error)
        if failure is None:  # such as a closed standard output
            raise
        last = console.describe_last_checkpoint(workdir)
        raise RunError(f"{failure}; {last}") from error


def train_to_end(
    config: Config,
    workdir: Path,
    mesh: Mesh,
    dataset: Dataset,
    step: int,
    stop: contextlib.AbstractContextManager[StopFlag],
    verbose: bool,
) -> None:
    """Trains from a step to the last one, or until a signal."""
    task, splits = dataset
    program = Program.create(config, task, mesh)
    view = View.of(config.data, task)
    if step:
        state = restore_state(workdir, step, config, program.model, mesh)
    else:
        state = create_state(config, program.model, mesh)
    if is_process_0():
        write_json(workdir / "config.json", config)
        logs.remove_metrics_after(workdir, step)
    with (
        stop as flag,
        Checkpoints(workdir, config.train.keep_checkpoints) as checkpoints,
        console.Progress(config.train, task, step, verbose) as progress,
        open_training_split(splits["train"], view, config, mesh) as split,
    ):
        networks = f"{config.num_seeds} x " if config.num_seeds > 1 else ""
        size = count_params(state.params) // config.num_seeds
        progress.line(f"{networks}{size:,} parameters")
        on_host = isinstance(split, HostSplit)
        if on_host or task.image_shape is None:
            where = "on the host" if on_host else "on the devices"
            progress.line(f"training {task.noun} stay {where}")
        run = RunContext(
            config=config,
            task=task,
            workdir=workdir,
            program=program,
            split=split,
            validation=EvaluationSplit.device_put(
                splits["validation"], view, mesh, program.execution
            ),
            validation_labels=splits["validation"].labels,
            progress=progress,
            checkpoints=checkpoints,
        )
        progress.line("compiling the training step")
        with jax.transfer_guard("disallow"):  # implicit copies to or from the host
            step = train_loop(run, state, step, flag)
    signal_number = all_max(flag.number)  # includes a signal during the last save
    if signal_number:
        saved = f"saved step {step}" if step else "before the first step"
        raise StoppedError(
            f"{saved} of {config.train.num_steps} in {workdir}; start the run again to "
            "resume",
            signal_number,
        )


def train_loop(run: RunContext, state: TrainState, step: int, stop: StopFlag) -> int:
    """Trains to the last step or a signal; returns the step that is being saved."""
    config = run.config.train
    stopping = all_max(stop.number) > 0
    while step < config.num_steps and not stopping:
        target = next_event(step, config)
        start = running_seconds()
        state, sums, split = train_range(
            state, run.split, step, target, program=run.program
        )
        seconds = running_seconds() - start
        finished = step + int(sums.examples) // config.batch_size
        if finished > step:
            log_training(run, state, split, finished, sums, seconds)
        if finished < target:
            raise rejected_update(run, finished, sums)
        step = finished
        stopping = all_max(stop.number) > 0  # all processes stop at the same step
        validated = step % config.eval_every_steps == 0 or step == config.num_steps
        if validated or stopping:
            metrics = validate(run, state, step) if validated else None
            run.checkpoints.save(
                step,
                saved_arrays(state, mesh=run.program.mesh),
                run.config,
                run.task,
                metrics,
            )
    return step


def next_event(step: int, config: TrainConfig) -> int:
    """Returns the first step after this one on which any event is due."""
    cadences = (config.log_every_steps, config.eval_every_steps)
    return min(config.num_steps, *((step // every + 1) * every for every in cadences))


def log_training(
    run: RunContext,
    state: TrainState,
    split: TrainingSplit | Chunk,
    step: int,
    sums: UpdateSums,
    seconds: float,
) -> None:
    """Records and shows the training metrics since the last event."""
    speed = run.config.num_seeds * int(sums.examples) / seconds
    if run.config.train.log_metrics == "last_batch":
        sums = jax.device_get(score_last_batch(state, split, program=run.program))
    examples = int(sums.examples)
    metrics = Metrics.create(
        step,
        "train",
        examples,
        run.config.seeds,
        [float(loss) / examples for loss in sums.loss],
        sums.correct.tolist(),
        examples_per_second=round(speed, 1),
    )
    run.record(metrics)
    run.progress.training(metrics)


def validate(run: RunContext, state: TrainState, step: int) -> Metrics:
    """Evaluates the validation split; records, shows and returns the metrics."""
    scores = evaluate(
        run.program.model,
        state.evaluated_params,
        run.validation,
        run.validation_labels,
    )
    losses = [network.loss for network in scores.networks]
    for index, loss in enumerate(losses):
        if not math.isfinite(loss):
            raise RunError(
                f"step {step}{run.config.seed_suffix(index)} is not saved: its "
                f"validation loss is {loss}; {console.NONFINITE_REMEDY}"
            )
    correct = [network.correct for network in scores.networks]
    metrics = Metrics.create(
        step, "validation", scores.examples, run.config.seeds, losses, correct
    )
    run.record(metrics)
    run.progress.line(
        f"step {step}  validation loss {metrics.loss:.4f}  accuracy "
        f"{percent(metrics.accuracy)} ({format_counts(metrics)})"
    )
    return metrics


def rejected_update(run: RunContext, step: int, sums: UpdateSums) -> RunError:
    """Returns the error for the update after `step`, which was not applied."""
    run.checkpoints.wait()
    with jax.transfer_guard("allow"):
        rate = float(make_schedule(run.config.train)(step))
    return RunError(
        f"step {step + 1}{console.describe_rejection(run.config, sums)} at learning "
        f"rate {rate:.3g}; {console.describe_last_checkpoint(run.workdir)}; "
        f"{console.NONFINITE_REMEDY}"
    )


def evaluate_best_checkpoint(
    workdir: Path, mesh: Mesh, dataset: Dataset
) -> results.Result:
    """Evaluates the best checkpoint on the test split, unless a valid result exists.

    If the data have no test split, it is evaluated on the validation split.
    """
    best = broadcast(lambda: find_step(workdir, "best"))
    restored = restore_model(workdir, best, mesh)
    sha256 = params_sha256(restored.params)
    task = dataset.task
    split = task.evaluated_split
    path = results.result_path(workdir, split, best)
    existing = broadcast(lambda: results.read_result(path, sha256))
    if existing is not None:
        return existing
    if split == "test":
        results.log_test_reading(workdir, best, sha256, "main")
    result = score(restored, best, task, split, dataset.splits[split])
    results.write_result(workdir, result)
    return result
