"""A run that is opened at one of its steps: what it was trained on, and its network."""

import functools
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from numpy.typing import ArrayLike

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
)
from rnnmnist.data.sequences.checking import (
    Sequences,
    refuse_masked,
)
from rnnmnist.errors import (
    MissingDataError,
    UserError,
    escape_unprintable,
    format_value,
    prefix_errors,
)
from rnnmnist.evaluation.network import Network
from rnnmnist.models.classifier import make_model
from rnnmnist.models.parameters import Params, abstract_params, count_params
from rnnmnist.runs.checkpoints import params_sha256, read_arrays
from rnnmnist.runs.selection import select
from rnnmnist.runtime.devices import make_device_mesh
from rnnmnist.runtime.jax_defaults import jax_defaults
from rnnmnist.runtime.mesh import (
    abstract_ensemble,
    device_put,
    platform_of,
    replicated_sharding,
)


class TrainedRun:
    """A run at one of its steps.

    `rnnmnist.Model` describes most of the attributes.
    """

    @jax_defaults()
    def __init__(
        self, workdir: Path, selector: str, settings: Mapping[str, object] = {}
    ) -> None:
        """Restores a checkpoint, selected by `best`, `latest` or its number.

        The settings are those of `OPENING_SETTINGS` that the caller has given. Code of
        the user's is imported only if they name it as `model.cell`, never if just the
        checkpoint does.
        """
        # If jax has no devices yet, this splits the CPU as for a run, which may follow.
        # Otherwise orbax would make a single device.
        make_device_mesh()
        self.workdir = workdir
        self.selector = selector
        self.settings = settings
        header = select(workdir, selector)
        self.checkpoint_step = header.step
        self.validation_metrics = header.metrics
        self.multiplier = header.multiplier
        self.task = header.task
        self.config = self._find_files(header.config)
        self.view = View(self.config.data.view, self.config.data.permutation)
        self.normalization = Normalization.create(self.task, self.config.data.missing)
        execution = Execution.create(self.config, "cpu")  # has no effect on shapes
        abstract = abstract_params(make_model(self.config.model, self.task, execution))
        self.num_parameters = count_params(abstract)
        like = abstract_ensemble(abstract, self.config.num_seeds)
        self.params: Params = read_arrays(workdir, header.step, "params", like)
        self.params_sha256 = params_sha256(self.params)

    def _find_files(self, config: RunConfig) -> RunConfig:
        """Returns the configuration of a checkpoint with what the caller names.

        The arrays of `fit` lie in the workdir, and move with it. Of other files, the
        caller names those that have moved, and a cell of the user's, whose class has
        the name of the run's. A cell of the package needs no name.
        """
        trained = config.model
        if trained.is_user_cell and self.settings.get("model.cell") is None:
            raise UserError(
                f"model.cell: {self.workdir} has a cell of its own, whose code runs "
                "only if you name it; if you trust it, set model.cell (in Python, "
                f"cell) to {escape_unprintable(trained.cell)}"
            )
        if config.data.path is not None:
            moved_path = self.workdir / Path(config.data.path).name
            is_of_fit = moved_path.suffix == ".data" and moved_path.exists()
            if is_of_fit:
                config = config.replace({"data.path": str(moved_path)})
        config = config.replace(self.settings)
        is_same_kind = config.model.is_user_cell == trained.is_user_cell
        if not is_same_kind or config.model.cell_name != trained.cell_name:
            raise UserError(
                f"model.cell: must be the {trained.cell_name} of the run, not "
                f"{config.model.cell}"
            )
        return config

    @jax_defaults()
    def make_network(self, mesh: Mesh) -> Network:
        """Returns the network, whose parameters are copied to the devices of a mesh."""
        execution = Execution.create(self.config, platform_of(mesh))
        sharding = replicated_sharding(mesh)
        return Network(
            model=make_model(self.config.model, self.task, execution),
            params=jax.tree.map(
                functools.partial(device_put, sharding=sharding), self.params
            ),
            mesh=mesh,
            view=self.view,
            normalization=self.normalization,
            multiplier=self.multiplier,
        )

    @property
    def pixel_order(self) -> np.ndarray | None:
        """The pixels, in row order, of each time step of an image, [time, features]."""
        shape = self.task.image_shape
        if shape is None:
            return None
        return self.view(np.arange(np.prod(shape)).reshape(1, *shape))[0]

    def check_streams(self) -> None:
        """Raises a `UserError` if there are no outputs before the last time step."""
        if self.config.model.bidirectional:
            raise UserError(
                f"workdir: {self.workdir} has model.bidirectional=True and classifies "
                "whole sequences only; for outputs over time, name a run without it"
            )

    def read_inputs(
        self, values: ArrayLike, lengths: ArrayLike | None = None
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
                return self.check_sequences(sequences)
        refuse_masked("inputs", values)
        if lengths is not None:
            raise UserError("lengths: are for sequences, not for images; remove them")
        wanted = f"uint8 images of shape {self.task.image_shape}"
        with prefix_errors("inputs", f"pass {wanted}"):
            images = np.asarray(values)
        is_image = images.shape[1:] == self.task.image_shape
        if not (images.size and is_image and images.dtype == np.uint8):
            raise UserError(
                f"inputs: must be {wanted}, not {images.dtype} of shape {images.shape}"
            )
        return Inputs(images)

    def check_sequences(self, sequences: Sequences) -> Inputs:
        """Returns sequences as inputs, whose values are checked."""
        from rnnmnist.data.sequences import reading  # imports pyarrow

        reading.read_values(sequences, self.normalization)
        return Inputs(
            sequences.inputs, sequences.lengths, normalization=self.normalization
        )

    def read_features(self, features: ArrayLike) -> np.ndarray:
        """Returns the values of one time step, float64 [features], which are checked.

        They are not normalized.
        """
        refuse_masked("features", features)
        count = self.task.features
        with prefix_errors("features", f"pass {count} numbers"):
            given = np.asarray(features)
        # A mapping, or a series, has names, which would not be read.
        is_named = hasattr(features, "keys")
        if is_named or given.dtype.kind not in "biuf" or given.shape != (count,):
            raise UserError(
                f"features: must be {count} numbers, not {format_value(features)}"
            )
        values = given.astype(np.float64)
        is_image = self.task.image_shape is not None
        if is_image and (values.min() < 0 or values.max() > 1):
            raise UserError(
                "features: must be grey levels from 0 to 1, not "
                f"{format_value(features)}"
            )
        invalid = self.normalization.find_invalid(values)
        if invalid is not None:
            (feature,), reason = invalid
            names = self.task.feature_names or range(count)
            raise UserError(f"feature {names[feature]} {reason}")
        return values

    def load_split(self, split: str | None = None) -> tuple[Task, str, Examples]:
        """Loads data to evaluate: those of the run, unless the caller has named others.

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
            raise MissingDataError(
                f"data.path: {config.path} is missing; set its new place"
            )
        task, splits = datasets.load(config, trained=self.task)
        is_named = self.settings.get("data.path") is not None
        if task.sha256 != self.task.sha256 and not is_named:
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
            raise UserError(f"split: {task.name} has no {split} split; leave it out")
        return task, split, splits[split]
