"""Trained networks for prediction and evaluation: `Model`, opened by `load`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnnmnist.config.files import REFERENCE_WORKDIRS, parse_folder, resolve_workdir
from rnnmnist.config.resolving import functions_to_specs
from rnnmnist.data.examples import Inputs, padding_mask
from rnnmnist.errors import UserError, errors_as_failures, prefix_errors
from rnnmnist.evaluation.inputs import read_inputs, to_inputs
from rnnmnist.evaluation.network import Network
from rnnmnist.runs.checkpoint_files import replace_functions
from rnnmnist.runs.records import Record, save_network
from rnnmnist.runs.results import Result
from rnnmnist.runtime.compilation import enable_compilation_cache
from rnnmnist.runtime.devices import make_mesh

if TYPE_CHECKING:
    from rnnmnist.exporting.exports import Export
    from rnnmnist.inference.digit_images import Prediction
    from rnnmnist.reporting.pages import Report


class Model(Network):
    """A trained network or ensemble.

    `rnnmnist.fit`, `rnnmnist.train` and `rnnmnist.load` return a `Model`. Pickles and
    copies contain the network, without the data and the log of its run. Attributes
    that are missing from the reference documentation are internal.

    Attributes:
        workdir: run folder; None in memory.
        checkpoint_step: step of the checkpoint.
        config: settings of the run.
        reason: reason for an automatic choice between random filters and a trained
            network; None if the user named the cell or the configuration.
        task: description of the task, such as `task.classes` in the order of the
            probabilities.
        validation_metrics: metrics of the checkpoint on the validation split, or of the
            leave-one-out predictions; None without validation.
        temperature: probabilities = softmax(logits / temperature).
        params: parameters as nested dictionaries of NumPy arrays, with a leading
            ensemble axis.
        params_sha256: SHA-256 of `params`, as in result files.
        num_parameters: number of trained parameters per ensemble member.

    >>> import rnnmnist
    >>> prediction = rnnmnist.load().predict("docs/five.jpg")
    >>> prediction.digit, round(prediction.probability, 2)
    (5, 0.95)
    """

    def __reduce__(self) -> tuple[Callable[..., "Model"], tuple[object, ...]]:
        """Pickles the checkpoint only, so that unpickling needs no devices."""
        record = Record()
        # In contrast to `self.header`, the record's header contains no path of the run.
        header = replace_functions(self.record.headers[self.checkpoint_step])
        record.save(header, self.params, state=None)
        named = functions_to_specs(self.config).model.user_functions
        return Model, (record, self.selector, {**self.settings, **named})

    @errors_as_failures()
    def save(self, folder: str | Path) -> None:
        """Saves the network to a folder for `rnnmnist.load` and all commands.

        The folder contains parameters and settings, but no data and no training state:
        training cannot be resumed from it. For networks on sequences, `evaluate` and
        `report` then require data to be passed; without data, `export` verifies the
        exported network on random sequences.

        Args:
            folder: new folder, or existing folder without checkpoints.

        Raises:
            UserError: if the folder contains checkpoints or is not writable.
            RunError: if the disk is full.
        """
        # In contrast to `self.header`, the record's header contains no path of the run.
        header = self.record.headers[self.checkpoint_step]
        save_network(parse_folder(folder, "folder"), header, self.params)

    @errors_as_failures()
    def predict(self, image: str | Path | bytes | np.ndarray) -> "Prediction":
        """Preprocesses and classifies one image.

        Args:
            image: path or content of an image file; or grey levels [height, width],
                either uint8 or floats from 0 to 1.

        Raises:
            UserError: if the file is not a readable image, the array has a wrong shape,
                type or range, or the network was not trained on images of digits.
        """
        from rnnmnist.inference.digit_images import predict  # imports Pillow

        return predict(self, image)

    def classify(
        self,
        inputs: ArrayLike,
        lengths: ArrayLike | None = None,
        *,
        every_step: bool = False,
    ) -> NDArray[np.float32]:
        """Returns class probabilities after the last time step.

        For an ensemble, the probabilities are averaged over its members. They are then
        calibrated by `temperature`, which is fitted on the validation split. For
        trained networks with fewer than 50 validation examples, the temperature follows
        from the label smoothing instead. For random filters, it is fitted on the
        leave-one-out predictions.

        Args:
            inputs: images, uint8 [n, 28, 28], preprocessed like MNIST, such as
                `Prediction.image`; or sequences, real [n, time, features] with the
                same features as in training, real [n, time] for a single feature, or a
                list of arrays of different lengths; or a table, as in `rnnmnist.fit`.
            lengths: int [n], time steps before the padding. None means no padding.
            every_step: whether to return probabilities after every time step. With
                windows, the values at the end of a window are repeated until the next
                window ends. Padding is NaN.

        Returns:
            float32 [n, classes], or [n, time, classes] with `every_step`.

        Raises:
            UserError: if the inputs have a wrong shape or type, missing values that the
                run does not fill, or a value more than 1e6 standard deviations from the
                training mean; or if `every_step` is set and the network is
                bidirectional or custom.
            RunError: if logits are not finite.
        """
        if every_step:
            self.check_streams()
        given = self._read(inputs, lengths)
        probabilities = self.probabilities(given, every_step=every_step)
        if every_step and given.lengths is not None:
            is_padding = padding_mask(probabilities.shape[1], given.lengths)
            probabilities[is_padding] = np.nan
        return probabilities

    def _read(self, inputs: ArrayLike, lengths: ArrayLike | None) -> Inputs:
        data = self.config.data
        sequences = read_inputs(self.task, data, inputs, lengths=lengths)
        with prefix_errors("inputs"):
            return to_inputs(sequences, self.task, data)

    def occlusion(
        self, inputs: ArrayLike, lengths: ArrayLike | None = None
    ) -> NDArray[np.float32]:
        """Returns the attribution of each time step by occlusion, float32 [n, time].

        Each sequence is divided into windows of 1/28 of its length, rounded up.
        Occluding a window replaces its values by the training mean (0 if the run does
        not normalize), or for images by the background. The attribution of a time step
        is the decrease, in nats, of the log-probability of the predicted class when its
        window is occluded. Padding has attribution 0. For arguments and errors, see
        `classify`.

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
        """Evaluates the network on a split of its data, or on other arrays.

        The evaluation is distributed over all devices that training could use. For the
        data of a run in a workdir, the result is also written to `workdir`. If
        `workdir` is read-only, a warning is logged instead.

        Args:
            split: None means `test`, or `validation` if the run has no test split. If
                no data were held out, None means the leave-one-out predictions for
                random filters, and `train` for trained networks.
            inputs: images or sequences, as in `classify`, instead of the data of the
                run. They are treated as a `test` split, unless they are the complete
                training data or a table with a column `split`. For sequences,
                `Result.examples_seen_in_training` is the number of inputs that occur in
                the training data.
            labels: classes of the inputs, as in `rnnmnist.fit`; None if the inputs are
                a table with a label column.
            lengths: int [n], time steps before the padding.
            groups: integers or strings [n], such as the subject of each sequence.

        Returns:
            The metrics, as in the result file. Accuracies are fractions; losses are in
            nats.

        Raises:
            UserError: if the split does not exist, the data are missing or differ from
                the data of the run, an array is invalid, or a file cannot be read or
                written.
            RunError: if logits are not finite, or the disk is full.
        """
        from rnnmnist.data.sequences.reading import to_dataset
        from rnnmnist.evaluation.logit_metrics import evaluate_logits
        from rnnmnist.evaluation.splits import load_evaluated

        dataset = None
        arrays = {"labels": labels, "lengths": lengths, "groups": groups}
        if any(array is not None for array in (inputs, *arrays.values())):
            sequences = read_inputs(self.task, self.config.data, inputs, **arrays)
            with prefix_errors("inputs"):
                dataset = to_dataset("inputs", sequences, self.config, self.task)
        task, name, examples, logits = load_evaluated(self, split, dataset)
        if logits is None:  # otherwise leave-one-out logits
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
        """Exports the network to other runtimes, and verifies each export.

        Each format is written to its own folder in `output`. Predictions of the network
        and of the export are compared, on a CPU device if jax has one.

        Args:
            format: export format.
            output: parent folder, created if it does not exist.
            force: whether to replace existing folders of the formats in `output`.

        Returns:
            For each format name, the folder and the certificate of the comparison.

        Raises:
            UserError: if a package required by a format is not installed, a folder
                exists or is not writable, or a format does not support the network.
            RunError: if the disk is full; or if the predicted class of an export
                differs for an example, unless the certificate counts the logits of the
                two classes as a tie. In this case, all exports have been written.
        """
        from rnnmnist.exporting.exports import write_exports

        return dict(write_exports(self, format, output, force=force))

    @errors_as_failures()
    def report(self, folder: str | Path | None = None) -> "Report":
        """Writes a report page with pictures.

        Computations run on a CPU device if jax has one.

        Args:
            folder: output folder. None means the folder `report` in `workdir`.

        Returns:
            The metrics on the evaluated split, and the paths of the files.

        Raises:
            UserError: if the network is in memory and `folder` is None, the data are
                missing or differ from the data of the run, or the folder is not
                writable.
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
    workdir: str | Path = REFERENCE_WORKDIRS[0],
    step: str | int = "best",
    *,
    cell: str | Callable[..., Any] | None = None,
    network: str | Callable[..., Any] | None = None,
    path: str | Path | None = None,
    columns: str | Mapping[str, str] | None = None,
    data_dir: str | Path | None = None,
    manual_dir: str | Path | None = None,
) -> Model:
    """Loads a network from a run folder, or from a folder written by `Model.save`.

    Without arguments, this loads the shipped reference model. If jax has not
    initialized its devices, `load` sets the number of CPU devices, as `rnnmnist.fit`
    does; predictions use the first device. `load` also configures the compilation
    cache. A forked process cannot use a model of its parent process: load the model
    after the fork.

    Args:
        workdir: run folder.
        step: `best`, `latest` or a step number.
        cell: custom cell of the run: the setting `model.cell`, with its parameters. Its
            code is imported only if it is named here, never because the checkpoint
            names it.
        network: custom network of the run: the setting `model.network`. The same import
            rule applies.
        path: setting `data.path`, for sequences that have moved since training, or for
            evaluation on other sequences. If a custom function reads the sequences, it
            must be named again.
        columns: setting `data.columns` for the table in `path`, if it differs.
        data_dir: TFDS folder, if it has moved.
        manual_dir: folder of the original image files, if it has moved.

    Raises:
        UserError: if the folder does not contain the run or the step; if the cell or
            the network is missing, fails, or differs from the cell or network of the
            run; or if this process was forked from a process that has trained or loaded
            a network.
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
