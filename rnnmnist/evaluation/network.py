"""A trained network, restored from a checkpoint: logits, scores, gates and streams."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import msgspec
import numpy as np
from jax.sharding import Mesh
from msgspec.structs import asdict

from rnnmnist.config.platforms import execution_of
from rnnmnist.config.tasks import Task
from rnnmnist.data import datasets
from rnnmnist.data.examples import (
    Dataset,
    Examples,
    Inputs,
    Normalization,
    View,
    find_invalid,
    permutation_sha256,
)
from rnnmnist.errors import UserError
from rnnmnist.evaluation.metrics import score_logits
from rnnmnist.evaluation.predictions import (
    EvaluationSplit,
    decision_times,
    predict_logits,
    softmax,
)
from rnnmnist.models.classifier import (
    Params,
    SequenceClassifier,
    abstract_params,
    count_params,
    make_model,
)
from rnnmnist.models.lstm import LSTM, Activations
from rnnmnist.runs.checkpoints import find_step, read_header, read_params, with_step
from rnnmnist.runs.checksums import params_sha256
from rnnmnist.runs.results import (
    NetworkResult,
    Result,
    log_test_reading,
    read_result,
    result_path,
    write_result,
)
from rnnmnist.runtime.distributed import broadcast, is_process_0
from rnnmnist.runtime.ensemble import abstract_ensemble, put_ensemble, split_ensemble
from rnnmnist.runtime.mesh import make_mesh, platform_of, replicated


class StreamState(NamedTuple):
    """What a network remembers of a sequence so far."""

    carry: Any  # of the recurrence, with a leading ensemble axis
    last: np.ndarray  # float64 [features], the last value of each; NaN before the first


class Trace(NamedTuple):
    """The activations of an LSTM after each time step of each example.

    The gates and states are float32 [examples, time, units]. Gates are from 0 to 1, the
    candidate and the hidden state from -1 to 1.
    """

    probabilities: np.ndarray  # float32 [examples, time, classes]
    hidden: np.ndarray
    cell: np.ndarray
    input_gate: np.ndarray
    forget_gate: np.ndarray
    output_gate: np.ndarray
    candidate: np.ndarray

    @property
    def decision_times(self) -> np.ndarray:
        """The time step after which each prediction no longer changes, [examples]."""
        return decision_times(self.probabilities.argmax(-1))


class TrainedNetwork:
    """The network of a run, or its ensemble, at one of its steps.

    Attributes:
        workdir: of the run.
        checkpoint_step: the step of the checkpoint.
        config: the configuration of the run.
        task: the data set on which it was trained; gives the names of the classes.
        validation: the metrics of the checkpoint, None if it was not validated.
        mesh: for which it was restored.
        execution: how its programs are compiled for the mesh.
        model: the classifier.
        params: its parameters with a leading ensemble axis, replicated over the mesh.
    """

    def __init__(self, workdir: Path, selector: str, mesh: Mesh | None = None) -> None:
        """Restores a checkpoint, for one device unless a mesh is given.

        Args:
            workdir: of a run, which may still be training.
            selector: `best`, `latest` or the number of a step.
            mesh: of the devices that compute.
        """
        self.workdir = workdir
        self.mesh = make_mesh(1, 1, 1) if mesh is None else mesh
        with_step(workdir, selector, self._restore)

    def _restore(self, step: int) -> None:
        header = read_header(self.workdir, step)
        self.checkpoint_step = step
        self.config = config = header.config
        self.task = header.task
        self.validation = header.metrics
        execution = execution_of(config, platform_of(self.mesh))
        if not config.model.is_linear:  # training's blocks do not divide other lengths
            execution = execution._replace(remat_steps=None)
        self.execution = execution
        self.model = make_model(config.model, self.task, execution)
        like = abstract_ensemble(abstract_params(self.model), config.num_seeds)
        saved = read_params(self.workdir, step, like)
        self.params: Params = put_ensemble(
            saved, config.num_seeds, replicated(self.mesh)
        )

    @property
    def params_sha256(self) -> str:
        """The SHA-256 of the parameters, as in result files."""
        return params_sha256(self.params)

    @property
    def view(self) -> View | None:
        """How the network reads images; None if it reads sequences."""
        return View.of(self.config.data, self.task)

    @property
    def normalization(self) -> Normalization:
        """How sequences are converted to inputs."""
        return Normalization.create(self.task, self.config.data.missing)

    def inputs(self, values: np.ndarray, lengths: np.ndarray | None = None) -> Inputs:
        """Returns images, or sequences before their normalization, as inputs."""
        if self.view is not None:
            return Inputs(values)
        return Inputs(values, lengths, normalization=self.normalization)

    def logits(self, inputs: Inputs, *, every_step: bool = False) -> np.ndarray:
        """Returns the logits of each network, float32 [ensemble, examples, classes].

        With `every_step`, they are [ensemble, examples, time, classes].
        """
        split = EvaluationSplit.device_put(inputs, self.view, self.mesh, self.execution)
        return predict_logits(self.model, self.params, split, every_step=every_step)

    def load_split(
        self, split: str | None, data_paths: Mapping[str, str | None], command: str
    ) -> tuple[Task, str, Examples]:
        """Loads data to evaluate: those of the run, unless `data_paths` has other ones.

        Without a name, the split is the test split, or validation if there is none.
        That a command reads the test split is recorded.

        Returns:
            The task of these data, the name of the split, and its examples.
        """
        config = self.config.replace(data_paths).data
        if config.name != "files" and config.path is not None:
            raise UserError(
                f"data.path: the run is on {config.name}, not on files; remove it"
            )
        task, splits = datasets.load(config, trained=self.task)
        if task.sha256 != self.task.sha256 and data_paths.get("data.path") is None:
            raise UserError(
                f"data.path: the sequences in {config.path} are not those of the "
                "training (their SHA-256 differs); to evaluate on them, set "
                f"data.path={config.path}"
            )
        if split is None:
            split = task.evaluated_split
        if not len(splits[split]):
            raise UserError(
                f"split: {task.name} has no {split} split; choose validation"
            )
        if split == "test":
            log_test_reading(
                self.workdir, self.checkpoint_step, self.params_sha256, command
            )
        return task, split, splits[split]

    def score(self, task: Task, split: str, examples: Examples) -> Result:
        """Evaluates the network on a whole split of a task."""
        config = self.config
        networks = split_ensemble(jax.device_get(self.params))
        labels = examples.labels
        logits = self.logits(examples)
        scores = score_logits(logits, labels, config.seed)
        common: dict[str, Any] = {
            "dataset": task.name,
            "split": split,
            "step": self.checkpoint_step,
            "num_parameters": count_params(networks[0]),
        }
        members = [  # none if there is one network
            NetworkResult(**asdict(one) | common, params_sha256=params_sha256(network))
            for one, network in zip(scores.members, networks, strict=False)
        ]
        permutation = None
        if config.data.view == "permuted":
            permutation = config.data.permutation
        return Result(
            **asdict(scores) | common | {"members": tuple(members)},
            params_sha256=self.params_sha256,
            task=task,
            permutation=permutation,
            permutation_sha256=(
                permutation_sha256(permutation, task.time_steps)
                if permutation
                else None
            ),
            trained_on_sha256=self.task.sha256,
            tutorial_128=(
                score_logits(logits[:, :128], labels[:128], config.seed)
                if config.tutorial_128 and split == "test"
                else None
            ),
        )

    def start(self) -> StreamState:
        """Returns the state before the first time step of a sequence, for `step`."""
        carry = _start(self.params, model=self.model)
        return StreamState(carry, np.full(self.task.features, np.nan))

    def step(
        self, state: StreamState, features: np.ndarray
    ) -> tuple[StreamState, np.ndarray]:
        """Classifies a sequence after one more time step, in constant time and memory.

        Args:
            state: from `start`, or from the time step before.
            features: real [features], the values of one time step; of an image, its
                grey levels from 0 to 1 in the order of `data.view`.

        Returns:
            The new state, and the probabilities of the classes, float32 [classes], as
            for the whole sequence.

        Raises:
            ValueError: if the features have another shape, or a value is missing that
                the run does not fill.
        """
        normalization = self.normalization
        values = np.asarray(features, np.float64)
        if values.shape != state.last.shape:
            raise ValueError(
                f"a time step has {len(state.last)} features, not values of shape "
                f"{values.shape}"
            )
        if found := find_invalid(values, normalization.missing):
            (feature,), reason = found
            raise ValueError(f"feature {feature} {reason}")
        if normalization.missing == "forward_fill":
            values = np.where(np.isnan(values), state.last, values)
        inputs = normalization(values[None, None], None)[0]
        carry, logits = _step(self.params, state.carry, inputs, model=self.model)
        probabilities = softmax(jax.device_get(logits)).mean(0)[0]
        return StreamState(carry, values), probabilities

    def activations(self, inputs: Inputs) -> Trace:
        """Returns the gates and states of the LSTM after each time step.

        Raises:
            ValueError: if the network is not one LSTM.
        """
        networks = split_ensemble(self.params)
        if not isinstance(self.model.make_recurrence(), LSTM) or len(networks) > 1:
            raise ValueError("a trace needs one LSTM of which the last state is read")
        (logits,) = self.logits(inputs, every_step=True)
        stored = inputs.take(slice(None))
        found = jax.device_get(
            _activations(networks[0], stored, model=self.model, view=self.view)
        )
        states = {name: array.swapaxes(0, 1) for name, array in found._asdict().items()}
        return Trace(softmax(logits), **states)


def evaluate_best_checkpoint(workdir: Path, mesh: Mesh, dataset: Dataset) -> Result:
    """Evaluates the best checkpoint on the test split, unless a valid result exists.

    If the data have no test split, it is evaluated on the validation split.
    """
    best = broadcast(lambda: find_step(workdir, "best"))
    network = TrainedNetwork(workdir, str(best), mesh)
    sha256 = network.params_sha256
    task = dataset.task
    split = task.evaluated_split
    path = result_path(workdir, split, best)
    existing = broadcast(lambda: msgspec.to_builtins(read_result(path, sha256)))
    if existing is not None:
        return msgspec.convert(existing, Result)
    if split == "test" and is_process_0():
        log_test_reading(workdir, best, sha256, "main")
    result = network.score(task, split, dataset.splits[split])
    if is_process_0():
        write_result(workdir, result)
    return result


@functools.partial(jax.jit, static_argnames="model")
def _start(params: Params, *, model: SequenceClassifier) -> Any:
    def one_network(params: Params) -> Any:
        return model.apply({"params": params}, 1, method="start")

    return jax.vmap(one_network)(params)


@functools.partial(jax.jit, static_argnames="model")
def _step(
    params: Params, carry: Any, inputs: jax.Array, *, model: SequenceClassifier
) -> tuple[Any, jax.Array]:
    def one_network(params: Params, carry: Any) -> Any:
        return model.apply({"params": params}, carry, inputs, method="step")

    return jax.vmap(one_network)(params, carry)


@functools.partial(jax.jit, static_argnames=("model", "view"))
def _activations(
    params: Params, stored: jax.Array, *, model: SequenceClassifier, view: View | None
) -> Activations:
    inputs = stored if view is None else view(stored)
    found: Any = model.apply(
        {"params": params},
        inputs.swapaxes(0, 1),
        method=lambda model, inputs: model.recurrence.activations(inputs),
    )
    return found
