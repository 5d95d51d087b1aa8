"""The handle of a trained network: `load` opens a run, and a `Model` answers."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnnmnist.config.files import REFERENCES, parse_folder, resolve_workdir
from rnnmnist.config.resolving import name_functions
from rnnmnist.data.examples import Inputs, find_padding
from rnnmnist.errors import UserError, errors_as_failures, prefix_errors
from rnnmnist.evaluation.inputs import read_given, to_inputs
from rnnmnist.evaluation.network import Network
from rnnmnist.runs.checkpoint_files import without_functions
from rnnmnist.runs.records import Record, save_network
from rnnmnist.runs.results import Result
from rnnmnist.runtime.compilation import enable_compilation_cache
from rnnmnist.runtime.devices import make_mesh

if TYPE_CHECKING:
    from rnnmnist.exporting.exports import Export
    from rnnmnist.inference.images_of_digits import Prediction
    from rnnmnist.reporting.pages import Report


class Model(Network):
    """A trained network, or an ensemble.

    `rnnmnist.fit`, `rnnmnist.train` and `rnnmnist.load` return it. A pickle or a copy
    contains the network, without the data and the log of its run. What the reference
    does not list is internal.

    Attributes:
        workdir: the folder of the run; None if it is in memory only.
        checkpoint_step: the step of the checkpoint.
        config: the settings of the run.
        reason: why this kind of network was chosen, by the number of sequences or the
            settings; None if the cell or the configuration was named.
        task: what is classified, such as the `classes` in the order of probabilities.
        validation_metrics: the scores of the checkpoint on the validation split, or of
            its leave-one-out predictions; None if it was not validated.
        temperature: the probabilities are the softmax of the logits divided by it.
        params: NumPy arrays by the names of the modules, with a leading ensemble axis.
        params_sha256: their SHA-256, as in result files.
        num_parameters: the number of trained parameters of one member of an ensemble.

    >>> import rnnmnist
    >>> prediction = rnnmnist.load().predict("docs/five.jpg")
    >>> prediction.digit, round(prediction.probability, 2)
    (5, 0.95)
    """

    def __reduce__(self) -> tuple[Callable[..., "Model"], tuple[object, ...]]:
        """Pickles the checkpoint alone, which any process opens without devices."""
        record = Record()
        # Unlike `self.header`, the header of the record names no folder of the run.
        header = without_functions(self.record.headers[self.checkpoint_step])
        record.save(header, self.params, state=None)
        named = name_functions(self.config).model.named
        return Model, (record, self.selector, {**self.settings, **named})

    @errors_as_failures()
    def save(self, folder: str | Path) -> None:
        """Saves the network in a folder, which `rnnmnist.load` and all commands open.

        The folder contains the parameters and the settings, without the data. A
        training cannot go on in it. To `evaluate` and `report` a network on sequences,
        name data; `export` compares on drawn sequences without them.

        Args:
            folder: a folder without checkpoints, which need not exist.

        Raises:
            UserError: if the folder has checkpoints, or cannot be written.
            RunError: if the disk is full.
        """
        # Unlike `self.header`, the header of the record names no folder of the run.
        header = self.record.headers[self.checkpoint_step]
        save_network(parse_folder(folder, "folder"), header, self.params)

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

        return predict(self, image)

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
                ends of two windows, those of the last one; in the padding, NaN.

        Returns:
            float32 [n, classes], or with `every_step` [n, time, classes]; of an
            ensemble, from the mean over its members. They are calibrated by
            `temperature`, which is fitted on the validation split. For a trained
            network with fewer than 50 validation examples, it follows from the label
            smoothing; for random filters, it is fitted on the leave-one-out
            predictions.

        Raises:
            UserError: if the inputs have another shape or type, missing values that
                the run does not fill, or a value more than 1e6 standard deviations
                from the mean in training; or if `every_step` needs one direction.
            RunError: if logits are not finite.
        """
        if every_step:
            self.check_streams()
        given = self._read(inputs, lengths)
        probabilities = self.probabilities(given, every_step=every_step)
        if every_step and given.lengths is not None:
            is_padding = find_padding(probabilities.shape[1], given.lengths)
            probabilities[is_padding] = np.nan
        return probabilities

    def _read(self, inputs: ArrayLike, lengths: ArrayLike | None) -> Inputs:
        """Checks inputs as the network takes them."""
        data = self.config.data
        sequences = read_given(self.task, data, inputs, lengths=lengths)
        with prefix_errors("inputs"):
            return to_inputs(sequences, self.task, data)

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

        return occlude(self, self._read(inputs, lengths))

    @errors_as_failures()
    def evaluate(
        self,
        split: Literal["train", "validation", "test"] | None = None,
        *,
        inputs: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        groups: ArrayLike | None = None,
    ) -> Result:
        """Evaluates the network on a whole split, or on other arrays.

        It uses all devices that help. A result on the data of a run in a workdir is
        written into `workdir`; in a read-only one, a warning is logged instead.

        Args:
            split: None is `test`, or, in a run without one, `validation`. If nothing
                was held out, it is the leave-one-out predictions of random filters, and
                `train` of a trained network.
            inputs: images, or sequences, as for `classify`, in place of the data of the
                run. They are of the split `test`, unless they are the whole data of the
                training, or a table with a column `split`. Of sequences,
                `Result.examples_trained_on` counts those that are in the training data.
            labels: the classes of the inputs, as for `rnnmnist.fit`; None for a table,
                which has them in a column.
            lengths: int [n], the time steps before the padding of each sequence.
            groups: integers or strings [n], such as the subject of each sequence.

        Returns:
            The scores, as in the result file. Accuracies are fractions, and losses are
            in nats.

        Raises:
            UserError: if there is no such split, or the data are missing or others, or
                an array is invalid, or a file cannot be read or written.
            RunError: if logits are not finite, or the disk is full.
        """
        from rnnmnist.data.sequences.reading import to_dataset
        from rnnmnist.evaluation.logit_metrics import evaluate_logits
        from rnnmnist.evaluation.splits import load_evaluated

        dataset = None
        arrays = {"labels": labels, "lengths": lengths, "groups": groups}
        if any(array is not None for array in (inputs, *arrays.values())):
            sequences = read_given(self.task, self.config.data, inputs, **arrays)
            with prefix_errors("inputs"):
                dataset = to_dataset("inputs", sequences, self.config, self.task)
        task, name, examples, logits = load_evaluated(self, split, dataset)
        if logits is None:  # else these are left-out predictions
            config = self.config
            mesh = make_mesh(config.sharded_batch, None, config.num_seeds)
            logits = self.on(mesh).logits(examples)
        result = evaluate_logits(self, task, name, examples, logits)
        if dataset is None:
            self.record.save_result(result)
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
    def report(self, folder: str | Path | None = None) -> "Report":
        """Writes the report page and its pictures.

        It computes on a CPU device, if jax has one.

        Args:
            folder: where to write. By default, it is the folder `report` in `workdir`.

        Returns:
            The scores on the evaluated split, and the paths of the files.

        Raises:
            UserError: if no folder is named for a network in memory, or the data are
                missing or others, or a folder cannot be written.
            RunError: if logits are not finite, or the disk is full.
        """
        from rnnmnist.reporting.pages import write_report

        if folder is not None:
            return write_report(self, parse_folder(folder, "folder"))
        if self.workdir is None:
            raise UserError("folder: must be named, since the run is in memory")
        return write_report(self, self.workdir / "report")


@errors_as_failures()
def load(
    workdir: str | Path = REFERENCES[0],
    step: str | int = "best",
    *,
    cell: str | Callable[..., Any] | None = None,
    network: str | Callable[..., Any] | None = None,
    path: str | Path | None = None,
    columns: str | Mapping[str, str] | None = None,
    data_dir: str | Path | None = None,
    manual_dir: str | Path | None = None,
) -> Model:
    """Opens a run, or a saved network; without a folder, the shipped reference model.

    This sets what `rnnmnist.fit` sets: the number of CPU devices, of which predictions
    use the first, if jax has no devices yet, and the compilation cache. A process that
    is forked afterwards cannot use the model: load it after the fork.

    Args:
        workdir: the folder of the run.
        step: `best`, `latest` or the number of a step.
        cell: your own cell, if the run was trained with one: the setting `model.cell`,
            with its parameters. Its code is imported only if it is named here, not
            because the checkpoint names it.
        network: your own network, likewise: the setting `model.network`.
        path: of sequences that have moved since the training, or of others to evaluate
            on; the setting `data.path`. A function of a file that reads them has to be
            named again, too.
        columns: the setting `data.columns` of that table, if it differs.
        data_dir: TFDS's folder, if it has moved.
        manual_dir: the folder of the original files of images, if it has moved.

    Raises:
        UserError: if the folder has no such run; or if the cell or the network is
            missing, fails, or is not that of the run; or if this process was forked
            from one that has trained or loaded a network.
        RunError: if the checkpoint is damaged.
    """
    given = {
        "model.cell": cell,
        "model.network": network,
        "data.path": path,
        "data.columns": columns,
        "data.data_dir": data_dir,
        "data.manual_dir": manual_dir,
    }
    enable_compilation_cache()
    settings = {name: value for name, value in given.items() if value is not None}
    return Model(Record(resolve_workdir(workdir)), str(step), settings)
