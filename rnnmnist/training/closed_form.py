"""Fits the head of random-filter networks in closed form.

A run has a single step. The devices compute the hidden states of the training examples.
The host then fits the head by ridge regression, and computes metrics from the
regression's leave-one-out predictions.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnnmnist.config.tasks import Task
from rnnmnist.data.examples import Examples, View
from rnnmnist.data.shuffling import epoch_order
from rnnmnist.errors import warn_about_data
from rnnmnist.evaluation.predictions import apply_in_batches, check_finite
from rnnmnist.evaluation.probabilities import calibrate
from rnnmnist.models.cells import FILTERS
from rnnmnist.models.classifier import Classifier
from rnnmnist.models.filters import THRESHOLDS, choose_thresholds
from rnnmnist.models.parameters import Params, init_params
from rnnmnist.runs.checkpoint_files import Header
from rnnmnist.runtime.mesh import replicated_sharding
from rnnmnist.runtime.random_streams import Stream, stream_key
from rnnmnist.runtime.signals import StopFlag
from rnnmnist.training.console import Progress
from rnnmnist.training.loss import compute_example_weights
from rnnmnist.training.resume import Run
from rnnmnist.training.ridge import fit_ridge
from rnnmnist.training.state import Program
from rnnmnist.training.validation import (
    compute_step_metrics,
    raise_if_stopped,
    validate,
)

LAST_STEP = 1
# The filters' thresholds are chosen from their outputs on a sample of the training
# examples.
NUM_SAMPLED_EXAMPLES = 24
MAX_SAMPLED_TIME_STEPS = 1024  # per sampled example


def fit_in_closed_form(run: Run, stop: StopFlag, progress: Progress) -> int:
    """Fits and saves all ensemble members, and returns `LAST_STEP`.

    Raises:
        StoppedError: after a signal. Signals are handled before each member is fitted.
        RunError: if a hidden state is not finite, or the checkpoint cannot be saved.
    """
    config, record = run.config, run.record
    task, splits = run.dataset
    train = splits["train"].sort_by_group()
    _warn_about_classes_in_one_group(train, task)
    program = Program.create(config, task, run.mesh)
    weights = compute_example_weights(config.train, task, train.labels)
    members = []
    for seed in config.seeds:
        raise_if_stopped(stop, 0, LAST_STEP, record)
        members.append(fit_member(seed, program, task, train, weights))
    all_params, all_logits = zip(*members, strict=True)
    ensemble = jax.tree.map(lambda *leaves: np.stack(leaves), *all_params)
    params = jax.device_put(ensemble, replicated_sharding(program.mesh))
    leave_one_out_logits = np.stack(all_logits)

    # `fit_ridge` calibrates each head. Averaging the members' probabilities changes the
    # calibration, so an ensemble needs its own temperature. As after validation, class
    # weights are ignored.
    temperature = 1.0
    if config.num_seeds > 1:
        temperature = calibrate(leave_one_out_logits, train.labels)
    split = "leave_one_out" if train.groups is None else "leave_one_group_out"
    metrics = compute_step_metrics(
        config, leave_one_out_logits, train, LAST_STEP, split
    )
    record.log(metrics)
    progress.show(metrics)
    if len(splits["validation"]):
        metrics, _ = validate(config, program, params, splits["validation"], LAST_STEP)
        record.log(metrics)
        progress.show(metrics)
    header = Header(
        step=LAST_STEP,
        config=config,
        task=task,
        metrics=metrics,
        temperature=temperature,
        reason=run.reason,
        trained_on=train.list_digests(),
    )
    record.save(header, params, {"left_out": leave_one_out_logits})
    return LAST_STEP


def fit_member(
    seed: int, program: Program, task: Task, train: Examples, weights: np.ndarray
) -> tuple[Params, np.ndarray]:
    """Draws the filters of one ensemble member, and fits its head.

    `train` must be sorted by group. `weights` are the example weights, float64
    [examples]. Returns the parameters and the leave-one-out logits, float64 [examples,
    classes].

    Raises:
        RunError: if a hidden state is not finite.
    """
    view = program.transform.view
    params = draw_member(seed, program.model, view, task, train)

    # Compute the hidden states on the devices.
    ensemble = jax.tree.map(lambda leaf: leaf[None], params)
    states = apply_in_batches(
        program.model, ensemble, train, view, program.mesh, method="compute_hidden"
    )
    check_finite(states, train)

    # Fit the head on the host.
    head = fit_ridge(
        states[0].astype(np.float64),
        train.labels,
        len(task.classes),
        weights,
        train.leave_out_groups,
    )
    head_params = {
        "kernel": head.kernel.astype(np.float32),
        "bias": head.bias.astype(np.float32),
    }
    return {**params, "head": head_params}, head.leave_one_out_logits


def _warn_about_classes_in_one_group(train: Examples, task: Task) -> None:
    groups = train.leave_out_groups
    class_names = [
        name
        for index, name in enumerate(task.classes)
        if len(np.unique(groups[train.labels == index])) == 1
    ]
    if class_names:
        warn_about_data(
            "each of these classes has only one group or one distinct training "
            "example, so leaving it out removes the class from training: "
            f"{', '.join(class_names)[:200]}"
        )


def draw_member(
    seed: int, model: Classifier, view: View, task: Task, train: Examples
) -> Params:
    """Draws the random filters of an ensemble member and chooses their thresholds.

    The thresholds are chosen from the filter outputs on a random sample of training
    examples. For long sequences, only outputs at equally spaced time steps are used.
    Returns the parameters as NumPy arrays; the head is not fitted yet.
    """
    delta_std = np.asarray(task.delta_std or 1, np.float32)
    params, order, positions = jax.device_get(
        _draw_params(np.uint32(seed), np.int32(len(train)), delta_std, model=model)
    )
    filter_outputs = []
    for index in order[: len(train)].tolist():
        example = train.take(slice(index, index + 1))
        outputs = jax.device_get(
            _compute_filter_outputs(params, example, model=model, view=view)
        )
        length = model.input_shape[0] if train.lengths is None else train.lengths[index]
        filter_outputs.append(
            outputs[: length : math.ceil(length / MAX_SAMPLED_TIME_STEPS), 0]
        )
    params[FILTERS]["thresholds"] = choose_thresholds(
        np.concatenate(filter_outputs), positions
    )
    return params


@functools.partial(jax.jit, static_argnames="model")
def _draw_params(
    seed: jax.Array,
    num_examples: jax.Array,
    delta_std: jax.Array,
    *,
    model: Classifier,
) -> tuple[Params, jax.Array, jax.Array]:
    """Draws parameters, a sample of training examples, and threshold positions.

    Returns:
        - The parameters.
        - Indices of training examples in random order, int32
          [NUM_SAMPLED_EXAMPLES]. With fewer training examples, indices are repeated.
        - Positions for `choose_thresholds`, float32 [THRESHOLDS, filters].
    """
    key = stream_key(seed, Stream.FILTERS)
    params_key, order_key, positions_key = jax.random.split(key, 3)
    params = init_params(model, params_key, delta_std)
    order = epoch_order(order_key, jnp.arange(NUM_SAMPLED_EXAMPLES), num_examples)
    shape = (THRESHOLDS, model.config.hidden_size)
    return params, order, jax.random.uniform(positions_key, shape)


@functools.partial(jax.jit, static_argnames=("model", "view"))
def _compute_filter_outputs(
    params: Params, values: jax.Array, *, model: Classifier, view: View
) -> jax.Array:
    """Computes filter outputs, [time, examples, filters]."""
    inputs = view(values).swapaxes(0, 1)
    classifier = model.bind({"params": params})  # keeps the parent of `layer` alive
    layer: Any = classifier.recurrent_layer
    if model.config.deltas:  # a `FilterBank` wrapped in `Deltas`
        inputs = layer.append_deltas(inputs, None)
        layer = layer.layer
    outputs: jax.Array = layer.outputs(inputs)
    return outputs
