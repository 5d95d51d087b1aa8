"""A trained network: its header and parameters, and what they compute."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from msgspec.structs import replace
from numpy.typing import ArrayLike, NDArray

from rnnmnist.config.functions import identify, import_function
from rnnmnist.config.platforms import Execution
from rnnmnist.config.resolving import RunConfig
from rnnmnist.config.schema import is_own
from rnnmnist.config.tasks import Task
from rnnmnist.data.examples import Dataset, Inputs, Normalization, View
from rnnmnist.errors import UserError, escape_unprintable, format_value
from rnnmnist.evaluation.inputs import read_features
from rnnmnist.evaluation.predictions import nonfinite_logits_error, predict_logits
from rnnmnist.evaluation.probabilities import combine_members, softmax
from rnnmnist.models.classifier import Classifier, make_model
from rnnmnist.models.parameters import Params, count_params, params_sha256
from rnnmnist.models.recurrent_layer import Carry
from rnnmnist.runs.checkpoint_files import warn_of_changed_files
from rnnmnist.runs.logs import StepMetrics
from rnnmnist.runs.records import Record
from rnnmnist.runs.workdir import ARRAYS
from rnnmnist.runtime.devices import make_device_mesh
from rnnmnist.runtime.jax_defaults import jax_defaults
from rnnmnist.runtime.mesh import platform_of, put_global, replicated_sharding


class StreamState(NamedTuple):
    """The state of a network after some time steps of a sequence.

    Attributes:
        carry: the carry of the recurrence, with a leading ensemble axis.
        last: the inputs of the previous time step, float32 [features]. With
            `data.missing=forward_fill`, they replace missing values of the next time
            step. They are 0 before the first time step.
    """

    carry: Carry
    last: np.ndarray


class Network:
    """A trained network, or an ensemble: a checkpoint of a record.

    `rnnmnist.Model` is the network of a user, and describes the properties. It has the
    methods that import further packages.

    Attributes:
        record: the record of the run.
        selector: selects the checkpoint: `best`, `latest` or its number.
        settings: those of `OPENING_SETTINGS` that the caller has given.
        dataset: the data of the run; None if they are not in memory.
        header: the header of the checkpoint, with the settings.
        params: the evaluated parameters, as NumPy arrays with a leading ensemble axis.
    """

    def __init__(
        self,
        record: Record,
        selector: str = "best",
        settings: Mapping[str, object] = {},
        dataset: Dataset | None = None,
    ) -> None:
        """Restores the checkpoint that is selected.

        Code of the user is imported only if the settings name it, never if just the
        checkpoint does.
        """
        self.record = record
        self.selector = selector
        self.dataset = dataset
        header = record.select(selector)
        config = _find_files(header.config, settings, record.workdir)
        # The paths in a configuration are absolute, and functions are imported.
        self.settings = {name: config.flat()[name] for name in settings}
        self.header = replace(header, config=config)
        if settings != self.settings:  # these functions were not imported before
            warn_of_changed_files(header, config)
        self.params: Params = record.read_params(self.header)

    @property
    def workdir(self) -> Path | None:
        """The folder of the run; None in memory."""
        return self.record.workdir

    @property
    def checkpoint_step(self) -> int:
        """The step of the checkpoint."""
        return self.header.step

    @property
    def config(self) -> RunConfig:
        """The settings of the run."""
        return self.header.config

    @property
    def task(self) -> Task:
        """What is classified."""
        return self.header.task

    @property
    def validation_metrics(self) -> StepMetrics | None:
        """The scores of the validation; None without one."""
        return self.header.metrics

    @property
    def temperature(self) -> float:
        """The factor of the logits whose softmax are the probabilities."""
        return self.header.temperature

    @property
    def reason(self) -> str | None:
        """Why this kind of network was chosen; None if the user has named it."""
        return self.header.reason

    @functools.cached_property
    def params_sha256(self) -> str:
        """The SHA-256 of the parameters, as in result files."""
        return params_sha256(self.params)

    @property
    def num_parameters(self) -> int:
        """The number of trained parameters of one member."""
        return count_params(self.params) // self.config.num_seeds

    @functools.cached_property
    def view(self) -> View:
        """How images are read."""
        return View(self.config.data.view, self.config.data.permutation)

    @functools.cached_property
    def normalization(self) -> Normalization:
        """How sequences are standardized and filled."""
        return Normalization.create(self.task, self.config.data.missing)

    @property
    def pixel_order(self) -> np.ndarray | None:
        """The pixels, in row order, of each time step of an image, [time, features]."""
        shape = self.task.image_shape
        if shape is None:
            return None
        return self.view(np.arange(np.prod(shape)).reshape(1, *shape))[0]

    def check_streams(self) -> None:
        """Raises a `UserError` if there are no outputs before the last time step."""
        model = self.config.model
        if model.reads_whole_sequences:
            name = "bidirectional" if model.network is None else "network"
            raise UserError(
                f"model.{name}: the network classifies whole sequences only; for an "
                "output at each time step, train a network without this setting"
            )

    def on(self, mesh: Mesh) -> "Network":
        """Returns the same network on the devices of a mesh."""
        network = Network(
            self.record, str(self.header.step), self.settings, self.dataset
        )
        network.mesh = mesh
        return network

    @functools.cached_property
    def mesh(self) -> Mesh:
        """The devices on which the network computes; by default, a single one."""
        return make_device_mesh()

    @functools.cached_property
    def model(self) -> Classifier:
        """The Flax module, as the platform of the mesh executes it."""
        execution = Execution.create(self.config, platform_of(self.mesh))
        return make_model(self.config.model, self.task, execution)

    @functools.cached_property
    def device_params(self) -> Params:
        """The parameters on each device of the mesh."""
        sharding = replicated_sharding(self.mesh)
        return jax.tree.map(
            functools.partial(put_global, sharding=sharding), self.params
        )

    @jax_defaults()
    def logits(self, inputs: Inputs, *, every_step: bool = False) -> np.ndarray:
        """Returns the logits of each network, float32 [ensemble, examples, classes].

        With `every_step`, they are [ensemble, examples, time, classes]. They are not
        calibrated.
        """
        view = View() if inputs.are_sequences else self.view
        return predict_logits(
            self.model,
            self.device_params,
            inputs,
            view,
            self.mesh,
            every_step=every_step,
        )

    def probabilities(self, inputs: Inputs, *, every_step: bool = False) -> np.ndarray:
        """Returns the probabilities of the classes, float32 [examples, classes].

        With `every_step`, they are [examples, time, classes]. They are calibrated.
        """
        logits = self.logits(inputs, every_step=every_step)
        return softmax(combine_members(logits) / self.temperature)

    def calibrated_logits(self, inputs: Inputs) -> np.ndarray:
        """Returns the logits whose softmax are the probabilities.

        They are float64 [examples, classes], and those of an ensemble are of all its
        members together.
        """
        logits = self.logits(inputs).astype(np.float64)
        return combine_members(logits) / self.temperature

    @jax_defaults()
    def start(self) -> StreamState:
        """Returns the state before the first time step of a sequence, for `step`."""
        self.check_streams()
        # Flax does not declare what `apply` returns.
        initialize: Any = functools.partial(self.model.apply, method="initialize_carry")
        carries = jax.vmap(initialize, in_axes=(0, None))(
            {"params": self.device_params}, 1
        )
        # With the sharding that `_step` returns, so that one program serves all steps.
        carry = jax.device_put(carries, replicated_sharding(self.mesh))
        return StreamState(carry, np.zeros(self.model.input_shape[1], np.float32))

    @jax_defaults()
    def step(
        self, state: StreamState, features: ArrayLike
    ) -> tuple[StreamState, NDArray[np.float32]]:
        """Classifies a sequence after one more time step, in constant time and memory.

        Args:
            state: from `start`, or from the time step before.
            features: real [features], the values of one time step; of an image, its
                grey levels from 0 to 1 in the order of `data.view`.

        Returns:
            The new state, and the probabilities of the classes, float32 [classes], as
            for the whole sequence.

        Raises:
            UserError: if these are no numbers or have another shape, or a value is
                missing that the run does not fill, or far from those in training.
            RunError: if the logits are not finite.
        """
        if not isinstance(state, StreamState):
            raise UserError(
                f"state: must be returned by start or step, not {format_value(state)}"
            )
        values = read_features(self.task, self.normalization, features)
        standardized = self.normalization.standardize(values[None, None])[0, 0]
        # Forward fill takes a missing value from the previous time step.
        two_time_steps = np.stack([state.last, standardized])
        inputs = self.normalization.fill(two_time_steps[None], None)[0, 1]
        carry, logits = _read_time_step(
            self.device_params, state.carry, inputs[None], model=self.model
        )
        logits = jax.device_get(logits)
        if not np.isfinite(logits).all():
            raise nonfinite_logits_error("the sequence up to this time step")
        (probabilities,) = softmax(combine_members(logits) / self.temperature)
        return StreamState(carry, inputs), probabilities


def _find_files(
    config: RunConfig, settings: Mapping[str, object], workdir: Path | None
) -> RunConfig:
    """Returns the configuration of a checkpoint with what the caller names.

    The arrays of `fit` lie in the workdir. Of other files, the caller names those that
    have moved, and the file of a user's cell or network.
    """
    trained = config
    if is_own("data.path", config.data.path):  # a reader, whose code must be named
        config = config.replace({"data.path": None})
    if config.data.name == "files" and config.data.path is None and workdir is not None:
        arrays = workdir / ARRAYS
        if arrays.exists():
            config = config.replace({"data.path": str(arrays)})
    config = config.replace(settings)
    for kind in ("cell", "network"):
        name = f"model.{kind}"
        old, new = trained.flat()[name], config.flat()[name]
        if isinstance(old, str) and is_own(name, old) and settings.get(name) is None:
            raise UserError(
                f"{name}: {workdir or 'the network'} has a user-defined {kind}, whose "
                f"code runs only if you name it; if you trust it, set {name} (in "
                f"Python, {kind}) to {escape_unprintable(old)}"
            )
        if identify(old) != identify(new):
            raise UserError(
                f"{name}: must be {identify(old)}, as in the run, not {identify(new)}"
            )
        if is_own(name, new):
            config = config.replace({name: import_function(name, new)})
    return config


@functools.partial(jax.jit, static_argnames="model")
def _read_time_step(
    params: Params,
    carry: Carry,
    inputs: jax.Array,
    *,
    model: Classifier,
) -> tuple[Carry, jax.Array]:
    """Returns the carry and the logits of each network after one more time step."""
    # Flax does not declare what `apply` returns.
    read: Any = functools.partial(model.apply, method="read_time_step")
    return jax.vmap(read, in_axes=(0, 0, None))({"params": params}, carry, inputs)
