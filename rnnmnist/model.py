"""The handle of a trained network: `load` opens a run, and a `Model` answers."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnnmnist.config.files import REFERENCES, resolve_workdir
from rnnmnist.errors import UserError, errors_as_failures, format_value
from rnnmnist.evaluation.network import Network, StreamState
from rnnmnist.evaluation.trained_run import TrainedRun
from rnnmnist.runs.results import Result
from rnnmnist.runtime.compilation import enable_compilation_cache
from rnnmnist.runtime.devices import make_device_mesh, make_mesh

if TYPE_CHECKING:
    from rnnmnist.exporting.exports import Export
    from rnnmnist.inference.images_of_digits import Prediction
    from rnnmnist.reporting.pages import Report


class Model(TrainedRun):
    """A trained network, or an ensemble, and the run that it is of.

    `rnnmnist.fit`, `rnnmnist.train` and `rnnmnist.load` return it. It can be pickled: a
    pickle contains the folder of the run and its step, not the parameters. What the
    reference does not list is internal.

    Attributes:
        workdir: the folder of the run.
        checkpoint_step: the step of the checkpoint that was restored.
        config: the settings of the run.
        task: what is classified, such as the `classes` in the order of probabilities.
        validation_metrics: the scores of the checkpoint on the validation split, or of
            its leave-one-out predictions; None if it was not validated.
        multiplier: the factor of the logits whose softmax are the probabilities.
        params: NumPy arrays by the names of the modules, with a leading ensemble axis.
        params_sha256: their SHA-256, as in result files.
        num_parameters: the number of trained parameters of one member of an ensemble.

    >>> import rnnmnist
    >>> prediction = rnnmnist.load().predict("docs/five.jpg")
    >>> prediction.digit, round(prediction.probability, 2)
    (5, 0.95)
    """

    def __reduce__(self) -> tuple[Callable[..., "Model"], tuple[object, ...]]:
        """Pickles what opens the run again, since a process has its own devices."""
        # Unlike those in `settings`, the paths in `config` are absolute.
        settings = {name: self.config.flat()[name] for name in self.settings}
        return Model, (self.workdir, str(self.checkpoint_step), settings)

    @functools.cached_property
    def network(self) -> Network:
        """The network on one device, for predictions."""
        return self.make_network(make_device_mesh())

    @errors_as_failures()
    def predict(self, image: str | Path | bytes | np.ndarray) -> "Prediction":
        """Preprocesses and classifies one image.

        Args:
            image: the name or the content of an image file; or grey levels [height,
                width] of uint8, or floats from 0 to 1.

        Raises:
            UserError: if a file cannot be read or is not an image, an array has another
                shape, type or range, or the network was not trained on images of
                digits.
        """
        from rnnmnist.inference.images_of_digits import predict  # imports Pillow

        return predict(self, self.network, image)

    def classify(
        self,
        inputs: ArrayLike,
        lengths: ArrayLike | None = None,
        *,
        every_step: bool = False,
    ) -> NDArray[np.float32]:
        """Returns the probabilities of each class after the last time step.

        Args:
            inputs: images, uint8 [n, 28, 28], in the form of MNIST's, which
                `Prediction.image` has; or sequences, real [n, time, features], with the
                features of the training, or [n, time] of one feature, or a list of
                arrays of different lengths; or a table, as for `rnnmnist.fit`.
            lengths: int [n], the time steps before the padding of each sequence; None
                if there is no padding.
            every_step: returns the probabilities after each time step; between the
                ends of two windows, those of the last one.

        Returns:
            float32 [n, classes], or with `every_step` [n, time, classes]; of an
            ensemble, from the mean over its members. If the validation split has
            selected the checkpoint, they are calibrated: the logits are multiplied by
            `multiplier`, so that the validation split has the least cross-entropy.

        Raises:
            UserError: if the inputs have another shape or type, missing values that
                the run does not fill, or a value more than 1e6 standard deviations
                from the mean in training; or if `every_step` needs one direction.
            RunError: if logits are not finite.
        """
        if every_step:
            self.check_streams()
        given = self.read_inputs(inputs, lengths)
        return self.network.probabilities(given, every_step=every_step)

    def start(self) -> StreamState:
        """Returns the state before the first time step of a sequence, for `step`."""
        self.check_streams()
        return self.network.start()

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
                f"state: must be that of start or step, not {format_value(state)}"
            )
        return self.network.step(state, self.read_features(features))

    def occlusion(
        self, inputs: ArrayLike, lengths: ArrayLike | None = None
    ) -> NDArray[np.float32]:
        """Returns on which time steps each prediction depends, float32 [n, time].

        A sequence is divided into windows of a 28th of its time steps, rounded up. The
        value of a time step says by how many nats the log-probability of the predicted
        class falls if its window is replaced: by the mean of the training split (0 if
        the run does not normalize), or by an image's background. It is 0 in padding.
        Arguments and errors are those of `classify`.

        References:
            Zeiler, Fergus, "Visualizing and Understanding Convolutional Networks",
            ECCV 2014.
        """
        from rnnmnist.evaluation.occlusion import occlude

        return occlude(self.network, self.read_inputs(inputs, lengths))

    @errors_as_failures()
    def evaluate(
        self, split: Literal["train", "validation", "test"] | None = None
    ) -> Result:
        """Evaluates the network on a whole split, and writes the result into `workdir`.

        It uses all devices that help.

        Args:
            split: None is `test`, or, in a run without one, `validation`. If nothing
                was held out, it is the leave-one-out predictions of random filters, and
                `train` of a trained network.

        Returns:
            The scores, as in the result file. Accuracies are fractions, and losses are
            in nats. In a read-only workdir, no file is written, and a warning is
            logged.

        Raises:
            UserError: if there is no such split, or the data are missing or others, or
                a file cannot be read or written.
            RunError: if logits are not finite, or the disk is full.
        """
        from rnnmnist.evaluation.left_out import load_evaluated
        from rnnmnist.evaluation.scoring import score_split
        from rnnmnist.runs.results import write_result

        task, name, examples, logits = load_evaluated(self, split)
        if logits is None:  # else these are left-out predictions
            config = self.config
            mesh = make_mesh(config.sharded_batch, None, config.num_seeds)
            logits = self.make_network(mesh).logits(examples)
        result = score_split(self, task, name, examples, logits)
        write_result(self.workdir, result)
        return result

    @errors_as_failures()
    def export(
        self,
        format: Literal["onnx", "stablehlo", "all"],
        output: str | Path,
        *,
        force: bool = False,
    ) -> "dict[str, Export]":
        """Writes the network for other runtimes, and compares them with it.

        Each format gets a folder in `output`. It computes on a CPU device, if jax has
        one.

        Args:
            format: what to write.
            output: the folder in which to write, which need not exist.
            force: whether folders of the formats in `output` are replaced.

        Returns:
            By the name of the format, its folder and the result of the comparison.

        Raises:
            UserError: if a package is missing for a format, a folder exists or cannot
                be written, or the network cannot be written in a format.
            RunError: if an export predicts another class than the network for an
                example, unless the logits of the two classes tie, as the certificate
                counts it. All exports have been written then. Or if the disk is full.
        """
        from rnnmnist.exporting.exports import write_exports

        return dict(write_exports(self, format, output, force=force))

    @errors_as_failures()
    def report(self) -> "Report":
        """Writes the report page and its pictures into the folder `report` of the run.

        It computes on a CPU device, if jax has one.

        Returns:
            The scores on the evaluated split, and the paths of the files.

        Raises:
            UserError: if the data are missing or others, or a folder cannot be written.
            RunError: if logits are not finite, or the disk is full.
        """
        from rnnmnist.reporting.pages import report_run

        return report_run(self)


@errors_as_failures()
def load(
    workdir: str | Path = REFERENCES[0],
    step: str | int = "best",
    *,
    cell: str | None = None,
    path: str | Path | None = None,
    columns: str | Mapping[str, str] | None = None,
    data_dir: str | Path | None = None,
    manual_dir: str | Path | None = None,
) -> Model:
    """Opens a run at one of its steps; without a folder, the shipped reference model.

    This sets what `rnnmnist.fit` sets: the number of CPU devices, of which predictions
    use the first, if jax has no devices yet, and the compilation cache. A process that
    is forked afterwards cannot use the model: load it after the fork.

    Args:
        workdir: the folder of the run.
        step: `best`, `latest` or the number of a step.
        cell: the `module:Class` or `FILE.py:Class` of your own cell, if the run was
            trained with one. Its code is imported only if it is named here, not because
            the checkpoint names it.
        path: of sequences that have moved since the training, or of others to evaluate
            on; the setting `data.path`.
        columns: the setting `data.columns` of that table, if it differs.
        data_dir: TFDS's folder, if it has moved.
        manual_dir: the folder of the original files of images, if it has moved.

    Raises:
        UserError: if the folder has no such run; or if the cell is missing or not that
            of the run; or if this process was forked from one that has trained or
            loaded a network.
        RunError: if the checkpoint is damaged.
    """
    given = {
        "model.cell": cell,
        "data.path": path,
        "data.columns": columns,
        "data.data_dir": data_dir,
        "data.manual_dir": manual_dir,
    }
    enable_compilation_cache()
    settings = {name: value for name, value in given.items() if value is not None}
    return Model(resolve_workdir(workdir), str(step), settings)
