"""A trained network, restored from a checkpoint: logits, scores and streams."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from msgspec.structs import asdict
from numpy.typing import ArrayLike, NDArray

from rnnmnist.config.platforms import Execution
from rnnmnist.config.resolving import RunConfig
from rnnmnist.config.tasks import Task
from rnnmnist.data import datasets
from rnnmnist.data.examples import (
    SPLITS,
    Examples,
    Inputs,
    Normalization,
    View,
    find_invalid,
    permutation_sha256,
)
from rnnmnist.data.sequences.validation import (
    SequenceInputs,
    Sequences,
    refuse_masked,
)
from rnnmnist.errors import (
    UserError,
    escape_unprintable,
    format_value,
    prefix_errors,
    summarize_error,
)
from rnnmnist.evaluation.metrics import score_logits
from rnnmnist.evaluation.predictions import predict_logits, refuse_non_finite
from rnnmnist.evaluation.probabilities import (
    combine_members,
    predict_probabilities,
)
from rnnmnist.models.classifier import (
    Params,
    SequenceClassifier,
    StreamCarry,
    abstract_params,
    count_params,
    make_model,
)
from rnnmnist.models.user_cells import pin_cell
from rnnmnist.runs.checkpoint_files import read_header
from rnnmnist.runs.checkpoints import params_sha256, read_arrays
from rnnmnist.runs.logs import Metrics
from rnnmnist.runs.results import Result
from rnnmnist.runs.selection import read_selected_step
from rnnmnist.runtime.jax_defaults import jax_defaults
from rnnmnist.runtime.library_logs import without_library_logs
from rnnmnist.runtime.mesh import (
    abstract_ensemble,
    device_put,
    make_device_mesh,
    platform_of,
    replicated_sharding,
    split_ensemble,
)


class StreamState(NamedTuple):
    """What a network remembers of a sequence so far.

    Attributes:
        carry: the states of the recurrence, with a leading ensemble axis.
        last: float32 [features], the last inputs; 0 before the first.
    """

    carry: StreamCarry
    last: NDArray[np.float32]


class TrainedNetwork:
    """The network of a run, or its ensemble, at one of its steps.

    `workdir`, `checkpoint_step`, `config` and `task` say which one it is; `validation`
    has its metrics, None if it was not validated. `params` have a leading ensemble axis
    and are replicated over the `mesh`; `params_sha256` is that of result files, and
    `num_parameters` counts the trained ones of each network. The logits times the
    `multiplier` give the probabilities. `view` reads images; `normalization` converts
    sequences. `paths` are settings of files that have moved.
    """

    workdir: Path
    checkpoint_step: int
    config: RunConfig
    task: Task
    validation: Metrics | None
    params: Params
    mesh: Mesh
    params_sha256: str
    num_parameters: int
    view: View
    normalization: Normalization
    paths: Mapping[str, str | Path | None]
    multiplier: float
    model: SequenceClassifier

    @jax_defaults()
    @without_library_logs()
    def __init__(
        self,
        workdir: Path,
        selector: str,
        mesh: Mesh | None = None,
        paths: Mapping[str, str | Path | None] = {},
        cell: str | None = None,
    ) -> None:
        """Restores the selected checkpoint, for one device unless a mesh is given.

        Code of the user's is imported only if `cell` names it, never if just the
        checkpoint does.
        """
        self.workdir = workdir
        self.mesh = make_device_mesh() if mesh is None else mesh
        self.paths = paths
        self._cell = cell
        read_selected_step(workdir, selector, self._restore)

    def _restore(self, step: int) -> None:
        """Reads the checkpoint of a step and sets the attributes that follow from it.

        `read_selected_step` calls it again for another step if the checkpoint has been
        deleted in the meantime or is damaged, so it sets all of them.
        """
        header = read_header(self.workdir, step)
        self.checkpoint_step = step
        self.validation = header.metrics
        self.multiplier = header.multiplier
        self.task = header.task
        self.config = self._find_files(header.config)
        data = self.config.data
        self.view = View(data.view, data.permutation)
        self.normalization = Normalization.create(self.task, data.missing)
        execution = Execution.create(self.config, platform_of(self.mesh))
        self.model = make_model(self.config.model, self.task, execution)
        abstract = abstract_params(self.model)
        self.num_parameters = count_params(abstract)
        like = abstract_ensemble(abstract, self.config.num_seeds)
        saved = read_arrays(self.workdir, step, "params", like)
        self.params_sha256 = params_sha256(saved)
        put = functools.partial(device_put, sharding=replicated_sharding(self.mesh))
        self.params = jax.tree.map(put, saved)

    def _find_files(self, config: RunConfig) -> RunConfig:
        """Returns a configuration of a checkpoint with the present paths of its files.

        The arrays of `fit` lie in the workdir, and move with it. Of other files, the
        caller names those that have moved, and a cell of the user's.
        """
        if config.data.path is not None:
            moved_path = self.workdir / Path(config.data.path).name
            if (
                moved_path.suffix == ".data" and moved_path.exists()
            ):  # the arrays of `fit`
                config = config.replace({"data.path": str(moved_path)})
        return self._take_cell(config.replace(self.paths))

    def _take_cell(self, config: RunConfig) -> RunConfig:
        """Returns a configuration of a checkpoint with the cell that the caller names.

        It is the run's: its class has the same name, and, when it is imported, its
        source the same SHA-256. A cell of the package needs no name.
        """
        trained = config.model
        if self._cell is None:
            if trained.is_user_cell:
                raise UserError(
                    f"model.cell: {self.workdir} has a cell of its own, whose code "
                    "runs only if you name it; if you trust it, set model.cell (in "
                    f"Python, cell) to {escape_unprintable(trained.cell)}"
                )
            return config
        config = config.replace({"model.cell": self._cell})
        given = config.model
        is_same_kind = given.is_user_cell == trained.is_user_cell
        if not is_same_kind or given.cell_name != trained.cell_name:
            raise UserError(
                f"model.cell: must be the {trained.cell_name} of the run, not "
                f"{given.cell}"
            )
        return pin_cell(config)

    @property
    def pixel_order(self) -> np.ndarray | None:
        """The pixels, in row order, of each time step of an image, [time, features]."""
        shape = self.task.image_shape
        if shape is None:
            return None
        return self.view(np.arange(np.prod(shape)).reshape(1, *shape))[0]

    def inputs(
        self, values: SequenceInputs, lengths: ArrayLike | None = None
    ) -> Inputs:
        """Returns images, or sequences before their normalization, as inputs."""
        if self.task.image_shape is None:
            from rnnmnist.data.sequences.reading import read_memory  # imports pyarrow

            sequences = read_memory(
                values,
                self.config.data.roles,
                self.task.feature_names,
                lengths=lengths,
            )
            with prefix_errors("inputs"):
                return self.sequence_inputs(sequences)
        refuse_masked("inputs", values)
        try:
            images = np.asarray(values)
        except ValueError as error:  # such as images of different sizes
            raise UserError(f"inputs: {summarize_error(error)}") from error
        is_image = images.shape[1:] == self.task.image_shape
        if not (images.size and is_image and images.dtype == np.uint8):
            raise UserError(
                f"inputs: must be uint8 images of shape {self.task.image_shape}, not "
                f"{images.dtype} of shape {images.shape}"
            )
        return Inputs(images)

    def sequence_inputs(self, sequences: Sequences) -> Inputs:
        """Returns sequences as inputs, whose features and values are checked."""
        from rnnmnist.data.sequences import reading  # imports pyarrow

        sequences = reading.take_features(sequences, self.task)
        missing, normalization = self.config.data.missing, self.normalization
        for _ in reading.check_parts(sequences, missing, normalization):
            pass  # raises an error if a value is invalid
        return Inputs(
            sequences.inputs, sequences.lengths, normalization=self.normalization
        )

    def logits(self, inputs: Inputs, *, every_step: bool = False) -> np.ndarray:
        """Returns the logits of each network, float32 [ensemble, examples, classes].

        With `every_step`, they are [ensemble, examples, time, classes]. They are not
        calibrated.
        """
        if every_step:
            self.check_streams()
        return predict_logits(
            self.model, self.params, inputs, self.view, self.mesh, every_step=every_step
        )

    def probabilities(self, inputs: Inputs, *, every_step: bool = False) -> np.ndarray:
        """Returns the probabilities of the classes, float32 [examples, classes].

        With `every_step`, they are [examples, time, classes]. They are calibrated.
        """
        logits = self.logits(inputs, every_step=every_step)
        return predict_probabilities(logits, self.multiplier)

    def calibrated_logits(self, inputs: Inputs) -> np.ndarray:
        """Returns the logits whose softmax are the probabilities.

        They are float64 [examples, classes], and those of an ensemble are of all its
        members together.
        """
        logits = self.logits(inputs).astype(np.float64)
        return self.multiplier * combine_members(logits)

    def load_split(self, split: str | None = None) -> tuple[Task, str, Examples]:
        """Loads data to evaluate: those of the run, unless `paths` has other ones.

        Without a name, the split is `Task.evaluated_split`. Returns the task of these
        data, the split's name and its examples.
        """
        if split not in (None, *SPLITS):
            raise UserError(
                f"split: must be one of {', '.join(SPLITS)}, not {format_value(split)}"
            )
        config = self.config.data
        if config.name != "files" and config.path is not None:
            raise UserError(
                f"data.path: the run is on {config.name}, not on files; remove it"
            )
        if config.path is not None and not Path(config.path).exists():
            raise UserError(f"data.path: {config.path} is missing; set its new place")
        task, splits = datasets.load(config, trained=self.task)
        if task.sha256 != self.task.sha256 and self.paths.get("data.path") is None:
            if config.path is None:
                raise UserError(
                    f"workdir: {self.workdir} was trained on other splits of "
                    f"{task.name}, of another version of rnnmnist; use that version, "
                    "or train in another workdir"
                )
            raise UserError(
                f"data.path: the sequences in {config.path} are not those of the "
                "training (their SHA-256 differs); to evaluate on them, set "
                f"data.path={config.path}"
            )
        split = task.evaluated_split if split is None else split
        if not len(splits[split]):
            raise UserError(
                f"split: {task.name} has no {split} split; choose "
                f"{task.evaluated_split}"
            )
        return task, split, splits[split]

    def is_fitted_to(self, task: Task, split: str) -> bool:
        """Whether the head was fitted to the examples of a split in closed form."""
        return (
            self.config.model.fitting == "closed_form"
            and split == "train"
            and task.sha256 == self.task.sha256
        )

    def score(
        self,
        task: Task,
        split: str,
        examples: Examples,
        logits: np.ndarray | None = None,
    ) -> Result:
        """Evaluates the network on a whole split of a task.

        Logits [ensemble, examples, classes] that are given are taken for those of the
        network.
        """
        seed = self.config.seed
        if logits is None:
            logits = self.logits(examples)
        groups = examples.num_groups
        scores = score_logits(logits, examples.labels, seed, self.multiplier, groups)
        create_result = functools.partial(
            Result,
            dataset=task.name,
            split=split,
            step=self.checkpoint_step,
            num_parameters=self.num_parameters,
        )
        members = []
        if scores.members:  # there are none if there is one network
            networks = split_ensemble(jax.device_get(self.params))
            for member, network in zip(scores.members, networks, strict=True):
                sha256 = params_sha256(network)
                members.append(create_result(**asdict(member), params_sha256=sha256))
        scores_of_128 = None
        if self.config.tutorial_128 and split == "test":
            scores_of_128 = score_logits(
                logits[:, :128], examples.labels[:128], seed, self.multiplier
            )
        permutation = None
        permutation_hash = None
        if self.config.data.view == "permuted":
            permutation = self.config.data.permutation
            pixels = task.time_steps * task.features
            permutation_hash = permutation_sha256(permutation, pixels)
        fields = asdict(scores) | {"members": tuple(members)}
        return create_result(
            **fields,
            params_sha256=self.params_sha256,
            multiplier=self.multiplier,
            task=task,
            permutation=permutation,
            permutation_sha256=permutation_hash,
            trained_on_sha256=self.task.sha256,
            tutorial_128=scores_of_128,
        )

    def check_streams(self) -> None:
        """Raises a `UserError` if there are no outputs before the last time step."""
        if self.config.model.bidirectional:
            raise UserError(
                f"workdir: {self.workdir} has model.bidirectional=True and classifies "
                "whole sequences only; for outputs over time, name a run without it"
            )

    @jax_defaults()
    def start(self) -> StreamState:
        """Returns the state before the first time step of a sequence, for `step`."""
        self.check_streams()
        start = functools.partial(self.model.apply, method="start")
        carry = jax.vmap(start, in_axes=(0, None))({"params": self.params}, 1)
        carry = jax.device_put(
            carry, replicated_sharding(self.mesh)
        )  # as `_step` returns it
        return StreamState(carry, np.zeros(self.task.features, np.float32))

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
            UserError: if the features have another shape, or a value is missing that
                the run does not fill, or far from those in training.
            RunError: if the logits are not finite.
        """
        refuse_masked("features", features)
        values = np.asarray(features, np.float64)
        if values.shape != state.last.shape:
            raise UserError(
                f"features: must be {len(state.last)} numbers, not of shape "
                f"{values.shape}"
            )
        invalid = find_invalid(values, self.config.data.missing)
        invalid = invalid or self.normalization.find_outlier(values)
        if invalid is not None:
            (feature,), reason = invalid
            names = self.task.feature_names or range(self.task.features)
            raise UserError(f"feature {names[feature]} {reason}")
        standardized = self.normalization.standardize(values[None, None])[0, 0]
        # The one before can have what replaces a missing value.
        two_time_steps = np.stack([state.last, standardized])
        inputs = self.normalization.fill(two_time_steps[None], None)[0, 1]
        carry, logits = _step(self.params, state.carry, inputs[None], model=self.model)
        logits = jax.device_get(logits)
        is_finite = np.isfinite(logits).all(axis=-1)
        refuse_non_finite(is_finite, lambda _: "the sequence up to this time step")
        (probabilities,) = predict_probabilities(logits, self.multiplier)
        return StreamState(carry, inputs), probabilities


@functools.partial(jax.jit, static_argnames="model")
def _step(
    params: Params,
    carry: StreamCarry,
    inputs: jax.Array,
    *,
    model: SequenceClassifier,
) -> tuple[StreamCarry, jax.Array]:
    """Returns the carry and the logits of each network after one more time step."""
    # Flax does not declare what `apply` returns.
    step: Any = functools.partial(model.apply, method="step")
    return jax.vmap(step, in_axes=(0, 0, None))({"params": params}, carry, inputs)
