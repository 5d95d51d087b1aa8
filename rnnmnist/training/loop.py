"""The training loop: trains, logs metrics, validates and saves checkpoints."""

import dataclasses
import functools

import jax
import numpy as np

from rnnmnist.config.resolving import (
    RunConfig,
    RunTrainConfig,
    imported_functions,
)
from rnnmnist.data.placement import BatchSource, open_batches
from rnnmnist.errors import RunError
from rnnmnist.evaluation.probabilities import smoothing_temperature
from rnnmnist.models.parameters import abstract_params, count_params
from rnnmnist.runs.checkpoint_files import Header
from rnnmnist.runs.logs import StepMetrics
from rnnmnist.runs.metrics import Metrics
from rnnmnist.runtime.compilation import seconds_without_compilation
from rnnmnist.runtime.distributed import broadcast, max_over_processes
from rnnmnist.runtime.mesh import put_global, replicate, replicated_sharding
from rnnmnist.runtime.signals import StopFlag
from rnnmnist.training.console import Progress
from rnnmnist.training.loss import compute_example_weights
from rnnmnist.training.optimizer import compute_learning_rates
from rnnmnist.training.resume import Run, restore_state
from rnnmnist.training.state import Program, TrainState, create_state
from rnnmnist.training.step import train_chunk
from rnnmnist.training.validation import (
    Callback,
    raise_if_stopped,
    should_stop,
    validate,
)

# Metrics by name, copied to the host, float32 [ensemble, updates].
HostMetrics = dict[str, np.ndarray]


def train_loop(
    run: Run, stop: StopFlag, progress: Progress, callback: Callback | None
) -> int:
    """Trains from the latest checkpoint until the run is complete or stopped.

    Each iteration trains until logging or validation is due, and logs the training
    metrics. Every `eval_every_steps` updates, and at the end of the run, the loop
    validates and saves a checkpoint. The callback or `train.patience` can then stop the
    run. Returns the final step.

    Raises:
        StoppedError: after a signal. If any updates were completed, they are saved.
        RunError: if a loss, gradient, parameter or validation logit is not finite, or
            if a checkpoint cannot be saved.
    """
    config, mesh, record = run.config, run.mesh, run.record
    task, splits = run.dataset
    step = record.step
    validation = splits["validation"]
    num_steps = config.train.num_steps
    eval_every_steps = config.train.eval_every_steps
    program = Program.create(config, task, mesh)
    train = splits["train"]
    if config.train.has_class_weights:
        weights = compute_example_weights(config.train, task, train.labels)
        train = dataclasses.replace(train, weights=weights.astype(np.float32))
    default_temperature = smoothing_temperature(
        config.train.label_smoothing, len(task.classes)
    )
    with open_batches(train, config, mesh) as batches:
        if step == 0:
            state = create_state(config, program, task.delta_std)
        else:
            state = restore_state(record, config, program)
        progress.start(
            num_members=config.num_seeds,
            num_parameters=count_params(abstract_params(program.model)),
        )
        is_stopped = max_over_processes(stop.signal_number) > 0
        stops_early = False
        while step < num_steps and not (is_stopped or stops_early):
            # Train. The state stays on the devices; the metrics are NumPy arrays.
            target_step = next_due_step(step, config.train)
            start_seconds = seconds_without_compilation()
            state, metrics = train_to(
                state,
                step,
                target_step,
                config=config.train,
                program=program,
                batches=batches,
            )
            seconds = seconds_without_compilation() - start_seconds

            # Log. Only updates before the first non-finite update are logged.
            is_finite = finite_mask(metrics).all(axis=0)  # in all members
            num_finite = int(np.logical_and.accumulate(is_finite).sum())
            step += num_finite
            if num_finite:
                finite_metrics = select_updates(metrics, 0, num_finite)
                train_metrics = average_updates(config, step, finite_metrics, seconds)
                record.log(train_metrics)
                progress.show(train_metrics)

            # After a non-finite update, end the run without saving: the state
            # includes this update and later updates. Earlier checkpoints are kept.
            if num_finite < len(is_finite):
                raise nonfinite_error(config, metrics, num_finite, step)

            # If any process has received a signal, all processes stop at this step.
            is_stopped = max_over_processes(stop.signal_number) > 0

            # Validate.
            is_due = step % eval_every_steps == 0 or step == num_steps
            validation_metrics: StepMetrics | None = None
            temperature = default_temperature
            if is_due and len(validation.labels):
                params = state.evaluated_params
                validation_metrics, fitted_temperature = validate(
                    config, program, params, validation, step
                )
                temperature = fitted_temperature or default_temperature
                record.log(validation_metrics)
                progress.show(validation_metrics)

            # Save.
            if is_due or is_stopped:
                header = Header(
                    step=step,
                    config=config,
                    task=task,
                    metrics=validation_metrics,
                    temperature=temperature,
                    reason=run.reason,
                    trained_on=train.list_digests(),
                )
                # Process 0 saves, and needs the arrays of all processes.
                arrays = state.evaluated_params, state._asdict()
                record.save(header, *replicate(arrays, mesh))

            # Stop early if the callback returns True or the patience is exhausted.
            if validation_metrics is not None:
                decide = functools.partial(
                    should_stop,
                    validation_metrics,
                    config.train,
                    record.lines,
                    callback,
                )
                stops_early = broadcast(decide)  # process 0 decides
    # After a signal, all processes raise an error, even if the run is complete.
    raise_if_stopped(stop, step, num_steps, record)
    return step


def train_to(
    state: TrainState,
    step: int,
    target_step: int,
    *,
    config: RunTrainConfig,
    program: Program,
    batches: BatchSource,
) -> tuple[TrainState, HostMetrics]:
    """Trains from `step` to `target_step`, with one call to `train_chunk` per chunk.

    Training ends early after a chunk with a non-finite update. The buffers of `state`
    are donated: do not use `state` after the call. Returns the new state and the
    metrics of the updates.
    """
    replicated = replicated_sharding(program.mesh)
    parts: list[HostMetrics] = []
    for chunk, first, end in batches.chunks(step, target_step):
        learning_rates = compute_learning_rates(  # for the whole chunk
            chunk.start,
            config=config,
            num_updates=batches.updates_per_chunk,
            sharding=replicated,
        )
        state, metrics = train_chunk(
            state,
            chunk,
            learning_rates,
            put_global(np.int32(first), replicated),
            put_global(np.int32(end), replicated),
            program=program,
        )
        part = select_updates(jax.device_get(metrics), first, end)
        parts.append(part)
        if not finite_mask(part).all():
            break
    return state, jax.tree.map(lambda *rows: np.concatenate(rows, axis=1), *parts)


def select_updates(metrics: HostMetrics, first: int, end: int) -> HostMetrics:
    """Returns the metrics of the updates `first` to `end - 1`."""
    return {name: values[:, first:end] for name, values in metrics.items()}


def finite_mask(metrics: HostMetrics) -> np.ndarray:
    """Returns True for each finite update, bool [ensemble, updates]."""
    values = [metrics[name] for name in ("loss", "grad_norm", "param_norm")]
    return np.isfinite(values).all(axis=0)


def next_due_step(step: int, config: RunTrainConfig) -> int:
    """Returns the next step at which logging or validation is due."""
    intervals = (config.log_every_steps, config.eval_every_steps)
    due_steps = [(step // interval + 1) * interval for interval in intervals]
    return min(config.num_steps, *due_steps)


def average_updates(
    config: RunConfig, step: int, metrics: HostMetrics, seconds: float
) -> StepMetrics:
    """Averages the metrics of the updates since the previous log line.

    `seconds` is the duration of these updates.
    """
    examples = config.train.batch_size * metrics["loss"].shape[1]
    means = {name: values.mean(axis=1, dtype=float) for name, values in metrics.items()}
    # The float32 accuracy is inexact, so round the count to an integer.
    correct = np.rint(means.pop("accuracy") * examples).astype(int)
    losses = means.pop("loss")
    members = [
        Metrics(seed=seed, examples=examples, correct=count, loss=loss)
        for seed, count, loss in zip(
            config.seeds, correct.tolist(), losses.tolist(), strict=True
        )
    ]
    speed = config.num_seeds * examples / seconds
    return StepMetrics(
        members=tuple(members),
        step=step,
        split="train",
        examples_per_second=round(speed, 1),
        metrics={name: tuple(values.tolist()) for name, values in means.items()},
    )


def nonfinite_error(
    config: RunConfig, metrics: HostMetrics, position: int, step: int
) -> RunError:
    """Creates the error for the non-finite update at `position` in the metrics.

    The first `step` updates of the run were finite, so this update is step `step + 1`.
    """
    member = int(np.argmin(finite_mask(metrics)[:, position]))
    values = {name: rows[member, position] for name, rows in metrics.items()}
    remedy = "lower train.learning_rate or train.clip_norm"
    if imported_functions(config):
        remedy += ", or fix the custom functions"
    return RunError(
        f"step {step + 1} produced non-finite values: for seed {config.seeds[member]}, "
        f"the loss is {values['loss']}, the gradient norm {values['grad_norm']} and "
        f"the parameter norm {values['param_norm']} at learning rate "
        f"{values['learning_rate']:.3g}; {remedy}"
    )
