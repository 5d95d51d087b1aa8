"""Prediction, evaluation and export with a trained network: `Model` and `load`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnnmnist.config.files import REFERENCE_WORKDIRS, parse_folder, resolve_workdir
from rnnmnist.config.resolving import functions_to_specs
from rnnmnist.data.examples import Inputs, padding_mask
from rnnmnist.errors import UserError, convert_errors, prefix_errors
from rnnmnist.evaluation.inputs import read_inputs, to_inputs
from rnnmnist.evaluation.network import Network
from rnnmnist.runs.checkpoint_files import replace_functions
from rnnmnist.runs.metrics import Result
from rnnmnist.runs.records import Record, save_network
from rnnmnist.runtime.compilation import enable_compilation_cache
from rnnmnist.runtime.devices import make_mesh

if TYPE_CHECKING:
    from rnnmnist.exporting.comparison import Certificate
    from rnnmnist.inference.digit_images import Prediction
    from rnnmnist.reporting.pages import Report


class Model(Network):
    """A trained network or ensemble.

    `rnnmnist.fit`, `rnnmnist.train` and `rnnmnist.load` return a `Model`. A pickle or
    copy contains the network, but not the data and log of its run. Attributes that are
    not listed in the reference documentation are internal.

    Attributes:
        workdir: run folder; None if the run is in memory.
        checkpoint_step: step of the checkpoint.
        config: settings of the run.
        reason: why random filters or a trained network was chosen automatically; None
            if the user specified the cell or the configuration.
        task: description of the task. Probabilities are in the order of `task.classes`.
        validation_metrics: metrics on the validation split, or metrics of the
            leave-one-out predictions; None if the checkpoint was not validated.
        temperature: calibration: probabilities = softmax(logits / temperature).
        params: parameters as nested dictionaries of NumPy arrays. The first axis of
            each array is the ensemble.
        params_sha256: SHA-256 hash of `params`, as in result files.
        num_parameters: number of trained parameters per ensemble member.

    >>> import rnnmnist
    >>> prediction = rnnmnist.load().predict("docs/five.jpg")
    >>> prediction.digit, round(prediction.probability, 2)
    (5, 0.95)
    """

    def __reduce__(self) -> tuple[Callable[..., "Model"], tuple[object, ...]]:
        """Pickles only the checkpoint, so unpickling does not use any device."""
        record = Record()
        # Unlike `self.config`, the record's header does not contain the run's path.
        header = replace_functions(self.record.headers[self.checkpoint_step])
        record.save(header, self.params, state=None)
        functions = functions_to_specs(self.config).model.custom_functions
        return Model, (record, self.selector, {**self.settings, **functions})

    @convert_errors()
    def save(self, folder: str | Path) -> None:
        """Saves the network to a folder that `rnnmnist.load` and all commands accept.

        The folder contains the parameters and settings, but neither data nor training
        state, so training cannot be resumed from it. To evaluate a saved sequence
        network or write its report, pass `path` to `rnnmnist.load`, or pass arrays to
        `evaluate`. If there are no data, `export` verifies the exported network on
        random sequences.

        Args:
            folder: output folder. It may exist, but must not contain checkpoints.

        Raises:
            UserError: if the folder contains checkpoints or is not writable.
            RunError: if the disk is full.
        """
        # Unlike `self.config`, the record's header does not contain the run's path.
        header = self.record.headers[self.checkpoint_step]
        save_network(parse_folder(folder, "folder"), header, self.params)

    @convert_errors()
    def predict(self, image: str | Path | bytes | np.ndarray) -> "Prediction":
        """Preprocesses and classifies one image.

        Args:
            image: path or content of an image file; or pixels, uint8 [height, width]
                or [height, width, channels], where the channels are RGB or RGBA.

        Raises:
            UserError: if the file is not a readable image, the array has an invalid
                shape or type, or the network was not trained on images of digits.
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

        For an ensemble, the probabilities are averaged over its members and then
        calibrated by `temperature`. For random filters, the temperature is fitted on
        the leave-one-out predictions. For trained networks, it is fitted on the
        validation split if the split contains at least 50 examples, and computed from
        the label smoothing otherwise.

        Args:
            inputs: for an image network, images preprocessed like MNIST, such as
                `Prediction.image`: uint8 array of shape [n, 28, 28]. For a sequence
                network, sequences with the same features as in training: real array of
                shape [n, time, features]; real array of shape [n, time], for a single
                feature; list of arrays of different lengths; or table, as in
                `rnnmnist.fit`.
            lengths: number of time steps without padding for each sequence: integers,
                shape [n]. None means that there is no padding.
            every_step: whether to return probabilities after every time step. If the
                network reads windows, the probabilities at the end of each window are
                repeated until the end of the next window. Values in the padding are
                NaN.

        Returns:
            float32 array of shape [n, classes], or [n, time, classes] if `every_step`
            is set.

        Raises:
            UserError: if the inputs have an invalid shape or type, contain NaN although
                `missing` was "error" in training, or contain a value more than 1e6
                standard deviations from the training mean; or if `every_step` is set
                and the network is bidirectional or custom.
            RunError: if logits are not finite.
        """
        if every_step:
            self.check_can_stream()
        model_inputs = self._read(inputs, lengths)
        probabilities = self.probabilities(model_inputs, every_step=every_step)
        if every_step and model_inputs.lengths is not None:
            is_padding = padding_mask(probabilities.shape[1], model_inputs.lengths)
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
        """Attributes each prediction to time steps by occlusion.

        Each sequence is divided into windows of 1/28 of its length, rounded up. One
        window at a time is occluded: its values are replaced with the training mean, or
        with 0 if the run does not normalize. For images, they are replaced with the
        background. The attribution of a time step is the decrease in the
        log-probability of the predicted class, in nats, when its window is occluded.
        Padding has attribution 0. For arguments and errors, see `classify`.

        Returns:
            Attributions, float32 array of shape [n, time].

        References:
            Zeiler, Fergus, "Visualizing and Understanding Convolutional Networks",
            ECCV 2014.
        """
        from rnnmnist.evaluation.occlusion import occlude

        return occlude(self, self._read(inputs, lengths))

    @convert_errors()
    def evaluate(
        self,
        split: Literal["train", "validation", "test"] | None = None,
        *,
        inputs: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        groups: ArrayLike | None = None,
    ) -> Result:
        """Evaluates the network on a split of its data or on other data.

        The evaluation is distributed over all devices that training could use. If the
        network is evaluated on its run's data and the run has a workdir, the result is
        also written to the workdir. If the workdir is read-only, a warning is logged
        instead.

        Args:
            split: split to evaluate. None means `test`, or `validation` if the run has
                no test split. If no data were held out, None means the leave-one-out
                predictions for random filters, and `train` for trained networks.
            inputs: images or sequences to evaluate instead of the run's data, as in
                `classify`. They are treated as a `test` split unless they are the
                complete training data or a table with a column `split`. For sequences,
                `Result.examples_seen_in_training` is the number of inputs that occur in
                the training data.
            labels: classes of the inputs, as in `rnnmnist.fit`. None if the inputs are
                a table with a label column.
            lengths: as in `classify`.
            groups: group of each sequence, such as its subject: integers or strings,
                shape [n].

        Returns:
            The metrics that are also in the result file. Accuracies are fractions, and
            losses are in nats.

        Raises:
            UserError: if the split does not exist, the data are missing or differ from
                the run's data, an array is invalid, or a file cannot be read or
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
            mesh = make_mesh(config.sharded_batch_size, None, config.num_seeds)
            logits = self.on(mesh).logits(examples)
        result = evaluate_logits(self, task, name, examples, logits)
        if dataset is None:
            self.record.save_result(result)
        return result

    @convert_errors()
    def export(
        self,
        format: Literal["onnx", "stablehlo", "all"],
        output: str | Path,
        *,
        force: bool = False,
    ) -> "dict[str, Certificate]":
        """Exports the network to other runtimes, and verifies each export.

        Each format is written to its own folder in `output`. Each export is verified by
        comparing its predictions with the network's, on a CPU device if JAX has one.

        Args:
            format: export format.
            output: parent folder. It is created if it does not exist.
            force: whether to replace existing exports in `output`.

        Returns:
            The certificate of each format, by name: the result of the comparison. The
            exported network is `model.onnx` or `model.stablehlo` in the format's
            folder.

        Raises:
            UserError: if a package that a format requires is not installed, a format's
                folder is not writable, it exists and `force` is False, or a format does
                not support the network.
            RunError: if the disk is full; or if an export and the network predict
                different classes for an example, and the difference between the two
                classes' logits is larger than rounding explains. In the second case,
                this export has been written, but no later one.
        """
        from rnnmnist.exporting.exports import write_exports

        return dict(write_exports(self, format, output, force=force))

    @convert_errors()
    def report(self, folder: str | Path | None = None) -> "Report":
        """Writes a report: a page of plots.

        Computations run on a CPU device if JAX has one.

        Args:
            folder: output folder. None means the folder `report` in the workdir.

        Returns:
            The metrics on the evaluated split, and the paths of the report's files.

        Raises:
            UserError: if the run is in memory and `folder` is None, the data are
                missing or differ from the run's data, or the folder is not writable.
            RunError: if logits are not finite, or the disk is full.
        """
        from rnnmnist.reporting.pages import write_report

        if folder is not None:
            return write_report(self, parse_folder(folder, "folder"))
        if self.workdir is None:
            raise UserError("folder: must be passed, because the run is in memory")
        return write_report(self, self.workdir / "report")


@convert_errors()
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

    By default, `load` loads the shipped reference model. If JAX has not initialized its
    devices, `load` sets the number of CPU devices, as in `rnnmnist.fit`. Predictions
    use the first device. `load` also configures the compilation cache. A forked process
    cannot use its parent's models, so load models after the fork.

    Args:
        workdir: run folder.
        step: `best`, `latest` or a step number.
        cell: custom cell of the run, with its parameters (the setting `model.cell`).
            For security, its code is imported only if you pass it here, even if the
            checkpoint contains its path.
        network: custom network of the run (the setting `model.network`). Like the cell,
            it is imported only if you pass it here.
        path: path to the sequences (the setting `data.path`), if they have moved since
            training or if you want to evaluate other sequences. If a custom function
            reads the sequences, you must pass it again.
        columns: columns of the table in `path` (the setting `data.columns`), if they
            differ from training.
        data_dir: TFDS folder, if it has moved since training.
        manual_dir: folder of the original image files, if it has moved since training.

    Raises:
        UserError: if the folder does not contain the run or the step; if the custom
            cell or network is not passed, raises an error, or differs from the run's;
            or if this process was forked from a process that has trained or loaded a
            network.
        RunError: if the checkpoint is damaged.
    """
    overrides = {
        "model.cell": cell,
        "model.network": network,
        "data.path": path,
        "data.columns": columns,
        "data.data_dir": data_dir,
        "data.manual_dir": manual_dir,
    }
    enable_compilation_cache()
    settings = {name: value for name, value in overrides.items() if value is not None}
    return Model(Record(resolve_workdir(workdir)), str(step), settings)
