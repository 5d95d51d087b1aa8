"""Trained networks, restored from checkpoints, and their predictions."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from msgspec.structs import replace
from numpy.typing import ArrayLike, NDArray

from rnnmnist.config.functions import import_function, spec_without_path
from rnnmnist.config.platforms import Execution
from rnnmnist.config.resolving import RunConfig
from rnnmnist.config.schema import is_custom
from rnnmnist.data.examples import Dataset, Inputs, Normalization, View
from rnnmnist.errors import UserError, escape_unprintable
from rnnmnist.evaluation.inputs import read_features
from rnnmnist.evaluation.predictions import nonfinite_logits_error, predict_logits
from rnnmnist.evaluation.probabilities import combine_members, softmax
from rnnmnist.models.classifier import Classifier, make_model
from rnnmnist.models.parameters import Params, count_params, params_sha256
from rnnmnist.models.recurrent_layer import Carry
from rnnmnist.runs.checkpoint_files import warn_about_changed_files
from rnnmnist.runs.records import Record
from rnnmnist.runs.workdir import ARRAYS_FOLDER
from rnnmnist.runtime.devices import make_single_device_mesh
from rnnmnist.runtime.jax_defaults import jax_defaults
from rnnmnist.runtime.mesh import mesh_platform, put_global, replicated_sharding


class StreamState(NamedTuple):
    """State of a network between two time steps of a streamed sequence.

    Attributes:
        carry: carry of the recurrent layers, with a leading ensemble axis.
        previous: network inputs at the previous time step, float32 [features]; 0 before
            the first time step. If `data.missing` is `forward_fill`, they replace
            missing values at the next time step.
    """

    carry: Carry
    previous: np.ndarray


class Network:
    """A trained network or ensemble, restored from a checkpoint.

    Base class of `rnnmnist.Model`, which documents the public attributes. Methods that
    import additional packages are defined in `Model`.

    Attributes:
        record: record of the run.
        selector: selects the checkpoint: `best`, `latest` or a step number.
        settings: the settings in `LOAD_SETTINGS` that the caller has passed.
        dataset: data of the run; None if they are not in memory.
        trained_on: hashes of the training sequences; empty for images.
    """

    def __init__(
        self,
        record: Record,
        selector: str = "best",
        settings: Mapping[str, object] = {},
        dataset: Dataset | None = None,
    ) -> None:
        """Restores the selected checkpoint.

        User-defined code is imported only if it is specified in `settings`. Code that
        only the checkpoint specifies is not imported.
        """
        self.record = record
        self.selector = selector
        self.dataset = dataset
        self.workdir = record.workdir
        header = record.select(selector)
        self.checkpoint_step = header.step
        self.task = header.task
        self.validation_metrics = header.metrics
        self.temperature = header.temperature
        self.reason = header.reason
        self.trained_on = header.trained_on
        self.config = _resolve_config(header.config, settings, record.workdir)
        # In the configuration, paths are absolute and functions are imported.
        self.settings = {name: self.config.flat()[name] for name in settings}
        if settings != self.settings:  # the caller specified functions or paths
            warn_about_changed_files(header, self.config)
        self.params: Params = record.read_params(replace(header, config=self.config))

    @functools.cached_property
    def params_sha256(self) -> str:
        """SHA-256 of the parameters, as in result files."""
        return params_sha256(self.params)

    @property
    def num_parameters(self) -> int:
        """Number of trained parameters per ensemble member."""
        return count_params(self.params) // self.config.num_seeds

    @functools.cached_property
    def view(self) -> View:
        """Transform that converts images to sequences."""
        return View(self.config.data.view, self.config.data.permutation)

    @functools.cached_property
    def normalization(self) -> Normalization:
        """Transform that standardizes sequences and fills missing values."""
        return Normalization.create(self.task, self.config.data.missing)

    @property
    def pixel_order(self) -> np.ndarray | None:
        """Pixels read at each time step, as indices [time, features], or None."""
        shape = self.task.image_shape
        if shape is None:
            return None
        return self.view(np.arange(np.prod(shape)).reshape(1, *shape))[0]

    def check_can_stream(self) -> None:
        """Raises a `UserError` if the network can only classify whole sequences."""
        model = self.config.model
        if model.reads_whole_sequences:
            name = "bidirectional" if model.network is None else "network"
            raise UserError(
                f"model.{name}: the network can only classify whole sequences; for an "
                "output at each time step, train a network without this setting"
            )

    def on(self, mesh: Mesh) -> "Network":
        """Returns a copy of the network on the devices of a mesh."""
        network = Network(
            self.record, str(self.checkpoint_step), self.settings, self.dataset
        )
        network.mesh = mesh
        return network

    @functools.cached_property
    def mesh(self) -> Mesh:
        """Device mesh for predictions; by default, a single device."""
        return make_single_device_mesh()

    @functools.cached_property
    def model(self) -> Classifier:
        """Flax module, configured for the platform of the mesh."""
        execution = Execution.create(self.config, mesh_platform(self.mesh))
        return make_model(self.config.model, self.task, execution)

    @functools.cached_property
    def device_params(self) -> Params:
        """Parameters, replicated over the devices of the mesh."""
        sharding = replicated_sharding(self.mesh)
        return jax.tree.map(
            functools.partial(put_global, sharding=sharding), self.params
        )

    @jax_defaults()
    def logits(self, inputs: Inputs, *, every_step: bool = False) -> np.ndarray:
        """Computes uncalibrated logits, float32 [ensemble, examples, classes].

        If `every_step` is True, the shape is [ensemble, examples, time, classes].
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
        """Computes calibrated class probabilities, float32 [examples, classes].

        If `every_step` is True, the shape is [examples, time, classes].
        """
        logits = self.logits(inputs, every_step=every_step)
        return softmax(combine_members(logits) / self.temperature)

    def calibrated_logits(self, inputs: Inputs) -> np.ndarray:
        """Computes the logarithms of the calibrated probabilities, up to a constant.

        Members of an ensemble are combined. Returns float64 [examples, classes].
        """
        logits = self.logits(inputs).astype(np.float64)
        return combine_members(logits) / self.temperature

    @jax_defaults()
    def start(self) -> StreamState:
        """Returns the initial state of a stream, for the first call of `step`."""
        self.check_can_stream()
        # Flax does not annotate the return type of `apply`.
        initialize: Any = functools.partial(self.model.apply, method="initialize_carry")
        carries = jax.vmap(initialize, in_axes=(0, None))(
            {"params": self.device_params}, 1
        )
        # The initial carry has the same sharding as the carry that `_read_time_step`
        # returns, so that all time steps use the same compiled program.
        carry = jax.device_put(carries, replicated_sharding(self.mesh))
        return StreamState(carry, np.zeros(self.model.input_shape[1], np.float32))

    @jax_defaults()
    def step(
        self, state: StreamState, features: ArrayLike
    ) -> tuple[StreamState, NDArray[np.float32]]:
        """Reads the next time step of a sequence, in constant time and memory.

        Args:
            state: state that `start`, or `step` for the previous time step, returned.
            features: float [features], values of one time step. For images, pixel
                values from 0 to 1 in the order of `data.view`.

        Returns:
            The new state, and the class probabilities after this time step, float32
            [classes].

        Raises:
            UserError: if the features are not numbers or have the wrong shape, if a
                value is missing and the run does not fill missing values, or if a value
                is far outside the range of the training data.
            RunError: if a logit is not finite.
        """
        values = read_features(self.task, self.normalization, features)
        current = self.normalization.standardize(values[None, None])[0, 0]
        # Forward fill copies missing values from the previous time step.
        two_time_steps = np.stack([state.previous, current])
        inputs = self.normalization.fill(two_time_steps[None], None)[0, 1]
        carry, logits = _read_time_step(
            self.device_params, state.carry, inputs[None], model=self.model
        )
        logits = jax.device_get(logits)
        if not np.isfinite(logits).all():
            raise nonfinite_logits_error("the sequence up to this time step")
        (probabilities,) = softmax(combine_members(logits) / self.temperature)
        return StreamState(carry, inputs), probabilities


def _resolve_config(
    config: RunConfig, settings: Mapping[str, object], workdir: Path | None
) -> RunConfig:
    """Resolves the data path and the custom code in a checkpoint's configuration.

    Arrays that were passed to `fit` are in the workdir. For other data, which may have
    moved, the caller can specify new paths in `settings`. The caller must specify a
    custom cell or network in `settings`.
    """
    saved_config = config
    if is_custom("data.path", config.data.path):
        config = config.replace({"data.path": None})
    if config.data.name == "files" and config.data.path is None and workdir is not None:
        arrays = workdir / ARRAYS_FOLDER
        if arrays.exists():
            config = config.replace({"data.path": str(arrays)})
    config = config.replace(settings)
    for kind in ("cell", "network"):
        name = f"model.{kind}"
        old, new = saved_config.flat()[name], config.flat()[name]
        if isinstance(old, str) and is_custom(name, old) and settings.get(name) is None:
            raise UserError(
                f"{name}: {workdir or 'the network'} uses a custom {kind}, whose "
                f"code runs only if you specify it; if you trust this code, set {name} "
                f"(in Python, {kind}) to {escape_unprintable(old)}"
            )
        if spec_without_path(old) != spec_without_path(new):
            raise UserError(
                f"{name}: must be {spec_without_path(old)}, as in the run, not "
                f"{spec_without_path(new)}"
            )
        if is_custom(name, new):
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
    # Flax does not annotate the return type of `apply`.
    read: Any = functools.partial(model.apply, method="read_time_step")
    return jax.vmap(read, in_axes=(0, 0, None))({"params": params}, carry, inputs)
