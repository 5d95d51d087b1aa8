"""The training loop: from one event to the next, it trains, logs, validates, saves."""

from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from rnnmnist.config.resolving import RunConfig, RunTrainConfig
from rnnmnist.data.examples import Dataset
from rnnmnist.data.placement import BatchSource, open_batches
from rnnmnist.errors import RunError
from rnnmnist.models.classifier import abstract_params, count_params
from rnnmnist.runs import checkpoints
from rnnmnist.runs.checkpoint_files import Header
from rnnmnist.runs.logs import Metrics
from rnnmnist.runs.scores import NetworkScores
from rnnmnist.runtime.compilation import running_seconds
from rnnmnist.runtime.distributed import all_max
from rnnmnist.runtime.mesh import (
    device_put,
    replicate,
    replicated_sharding,
)
from rnnmnist.runtime.signals import StopFlag
from rnnmnist.training import console, resume
from rnnmnist.training.events import (
    REMEDY,
    Callback,
    decide_end,
    raise_if_stopped,
    record,
    score_validation,
)
from rnnmnist.training.loss import ScoreSums, weigh_classes
from rnnmnist.training.optimizer import learning_rate, learning_rates
from rnnmnist.training.state import Program, TrainState, create_state, to_items
from rnnmnist.training.step import UpdateStats, train_chunk


def loop_over_events(
    config: RunConfig,
    dataset: Dataset,
    workdir: Path,
    *,
    mesh: Mesh,
    step: int,
    stop: StopFlag,
    progress: console.Progress,
    callback: Callback | None,
) -> int:
    """Trains from a step to the end of the run, or until it is stopped.

    Each iteration trains to the next event and logs the training. Every
    `eval_every_steps` updates and at the end, it also validates and saves. After a
    signal, it saves at the next event and ends. Returns the last step.

    Raises:
        StoppedError: after a signal.
        RunError: if a loss, gradient or parameter is not finite, or a save fails.
    """
    task, splits = dataset
    validation = splits["validation"]
    num_steps = config.train.num_steps
    eval_every_steps = config.train.eval_every_steps
    program = Program.create(config, task, mesh)
    class_weights = None  # all are 1
    if config.train.has_class_weights:
        weights = weigh_classes(config.train, task, splits["train"].labels)
        class_weights = device_put(
            weights.astype(np.float32), replicated_sharding(mesh)
        )
    with open_batches(splits["train"], config, mesh) as batches:
        if step == 0:
            state = create_state(config, program, task.difference_std)
        else:
            state = resume.restore_state(workdir, step, config, program)
        progress.start(
            networks=config.num_seeds,
            parameters=count_params(abstract_params(program.model)),
        )
        is_stopped = all_max(stop.signal_number) > 0
        ends_early = False
        # In the loop, an implicit copy to or from the host is an error.
        with jax.transfer_guard("disallow"):
            while step < num_steps and not (is_stopped or ends_early):
                # Train to the next event. The state stays on the devices. The
                # statistics are NumPy arrays.
                target = next_event(step, config.train)
                started = running_seconds()  # without the time of compilation
                state, stats = train_to(
                    state,
                    step,
                    target,
                    config=config.train,
                    program=program,
                    batches=batches,
                    class_weights=class_weights,
                )
                seconds = running_seconds() - started
                num_updates = int(stats.is_applied.sum())
                step += num_updates

                # Log the training.
                if num_updates:
                    trained = measure_training(config, step, stats, seconds)
                    record(workdir, trained, progress)

                # Fail if an update was rejected: if its loss, its gradient or an
                # updated parameter was not finite.
                if step < target:
                    raise rejection_error(config, stats, step)

                # Stop after this event if any process got a signal, so that all stop at
                # the same step.
                is_stopped = all_max(stop.signal_number) > 0

                # Validate.
                is_due = step % eval_every_steps == 0 or step == num_steps
                validated: Metrics | None = None
                # The softmax of `logit_multiplier * logits` gives the probabilities. A
                # validation chooses the multiplier that calibrates them, and the
                # checkpoint stores it. Without a validation, it is 1.
                logit_multiplier = 1.0
                if is_due and len(validation.labels):
                    params = state.evaluated_params
                    validated, logit_multiplier = score_validation(
                        config, program, params, validation, step
                    )
                    record(workdir, validated, progress)

                # Save.
                if is_due or is_stopped:
                    items = replicate(to_items(state), mesh)  # for every process
                    header = Header(
                        step=step,
                        config=config,
                        task=task,
                        metrics=validated,
                        multiplier=logit_multiplier,
                    )
                    checkpoints.save(workdir, header, items)

                # Call the callback. It, or patience, can end the run early.
                if validated is not None:
                    ends_early = decide_end(validated, config.train, workdir, callback)
    # After a signal, all processes raise an error, even if the run is complete.
    raise_if_stopped(stop, step, num_steps, workdir)
    return step


def train_to(
    state: TrainState,
    step: int,
    target: int,
    *,
    config: RunTrainConfig,
    program: Program,
    batches: BatchSource,
    class_weights: jax.Array | None = None,
) -> tuple[TrainState, UpdateStats]:
    """Trains from a step to a later one, or until an update is rejected.

    There is one call of `train_chunk` for each chunk. The arrays of the old state are
    donated to it, and cannot be used afterwards. Returns the new state, and the
    statistics of the updates, [updates, ensemble], as NumPy arrays.
    """
    replicated = replicated_sharding(program.mesh)
    parts: list[UpdateStats] = []
    for chunk, num_updates in batches.chunks(step, target):
        rates = learning_rates(  # of all updates of the chunk, used or not
            chunk.start,
            config=config,
            updates=batches.updates_per_chunk,
            sharding=replicated,
        )
        state, all_stats = train_chunk(
            state,
            chunk,
            rates,
            device_put(np.int32(num_updates), replicated),
            class_weights,
            program=program,
        )
        stats = take_rows(jax.device_get(all_stats), slice(num_updates))
        parts.append(stats)
        if not stats.is_applied.all():
            break
    return state, jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def take_rows(stats: UpdateStats, rows: slice | np.ndarray) -> UpdateStats:
    """Returns the statistics of some of the updates, as NumPy arrays."""
    taken: UpdateStats = jax.tree.map(lambda leaf: leaf[rows], stats)
    return taken


def next_event(step: int, config: RunTrainConfig) -> int:
    """Returns the first step after this one at which an event is due."""
    intervals = (config.log_every_steps, config.eval_every_steps)
    due = [(step // every + 1) * every for every in intervals]
    return min(config.num_steps, *due)


def measure_training(
    config: RunConfig, step: int, stats: UpdateStats, seconds: float
) -> Metrics:
    """Returns the metrics of the updates since the last event, which took `seconds`.

    Besides the loss and the accuracy, the metrics contain the dictionary `means`, with
    every other field of `ScoreSums` and of `UpdateStats`. `is_finite` is left out.
    """
    applied = take_rows(stats, stats.is_applied)
    num_updates = int(stats.is_applied.sum())
    examples = config.train.batch_size * num_updates
    sums = ScoreSums(*(leaf.sum(axis=0, dtype=float) for leaf in applied.scores))
    networks = [
        NetworkScores(seed=seed, examples=examples, correct=int(correct), loss=loss)
        for seed, correct, loss in zip(
            config.seeds, sums.correct, (sums.loss / examples).tolist(), strict=True
        )
    ]
    means = {
        name: total / examples
        for name, total in sums._asdict().items()
        if name not in ("loss", "correct")
    }
    means |= {
        name: values.mean(axis=0)
        for name, values in applied._asdict().items()
        if name not in ("scores", "is_finite")
    }
    speed = config.num_seeds * examples / seconds
    return Metrics(
        networks=tuple(networks),
        step=step,
        split="train",
        examples_per_second=round(speed, 1),
        means={name: tuple(mean.tolist()) for name, mean in means.items()},
    )


def rejection_error(config: RunConfig, stats: UpdateStats, step: int) -> RunError:
    """Returns the error that ends a run after a rejected update.

    `step` is the number of applied updates. The message calls the rejected one
    `step + 1`. The statistics are NumPy arrays, of this and of earlier updates.
    """
    row = int(np.argmin(stats.is_applied))
    network = int(np.argmin(stats.is_finite[row]))
    loss = stats.scores.loss[row, network] / config.train.batch_size
    with jax.transfer_guard("allow"):  # which the loop disallows
        rate = float(learning_rate(config.train, step))
    return RunError(
        f"step {step + 1}{config.seed_suffix(network)} was not applied: its loss is "
        f"{loss} and its gradient norm {stats.grad_norm[row, network]}; one of them or "
        f"an updated parameter is not finite at learning rate {rate:.3g}; {REMEDY}"
    )
