"""The record of a run: its log, checkpoints, tables and results.

Training writes to a record, and trained networks are loaded from a record. A record is
kept in memory and, if the run has a workdir, also in files. Its interface is the same
in both cases.
"""

import contextlib
import errno
import functools
import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import jax
import numpy as np
from numpy.typing import ArrayLike

from rnnmnist.config.platforms import Execution
from rnnmnist.config.resolving import RunConfig, functions_to_specs
from rnnmnist.config.tasks import MIN_VALIDATION_EXAMPLES
from rnnmnist.errors import RunError, UserError, set_missing_filename
from rnnmnist.models.classifier import make_model
from rnnmnist.models.parameters import Params, abstract_params
from rnnmnist.runs import logs
from rnnmnist.runs.checkpoint_files import (
    Header,
    Tree,
    move_aside,
    read_header,
    replace_functions,
)
from rnnmnist.runs.logs import StepMetrics
from rnnmnist.runs.metrics import Result, to_json
from rnnmnist.runs.workdir import (
    ARRAYS_FOLDER,
    UNFINISHED_FOLDER,
    list_steps,
    lock,
    remove_unfinished,
)
from rnnmnist.runs.writing import write_atomically, write_json
from rnnmnist.runtime.devices import make_single_device_mesh
from rnnmnist.runtime.distributed import is_process_0, wait_for_process_0
from rnnmnist.runtime.mesh import abstract_ensemble

_logger = logging.getLogger(__name__)


class Record:
    """Log, checkpoints and tables of a run, in memory and optionally in a workdir.

    Everything that this process saves also stays in memory, so that the process does
    not read its own files. In a multi-process run, only process 0 writes files.

    Attributes:
        workdir: the folder of the run; None if the run is kept only in memory.
        headers: the headers of intact checkpoints by step, in ascending order.
        damaged_steps: the steps of damaged checkpoints.
        params: the evaluated parameters by step, as NumPy arrays with a leading
            ensemble axis, for the checkpoints that this process has saved or read.
        state: all training arrays of the latest checkpoint, from which training
            resumes; None if this process has neither saved nor read them. For random
            filters, `state` contains the leave-one-out logits as `left_out`, float64
            [ensemble, examples, classes], with examples sorted by group.
    """

    def __init__(self, workdir: Path | None = None) -> None:
        """Verifies all checkpoints in the workdir, and reads their headers."""
        self.workdir = workdir
        self.headers: dict[int, Header] = {}
        self.damaged_steps: list[int] = []
        self.params: dict[int, Params] = {}
        self.state: Tree | None = None
        if workdir is not None:
            for step in list_steps(workdir):
                header = read_header(workdir / str(step))
                if header is None:
                    self.damaged_steps.append(step)
                else:
                    self.headers[step] = header

    @functools.cached_property
    def lines(self) -> list[StepMetrics]:
        """The lines of the log."""
        return [] if self.workdir is None else logs.read(self.workdir)

    @property
    def step(self) -> int:
        """The step of the latest checkpoint; 0 if there are no checkpoints."""
        return max(self.headers, default=0)

    @property
    def _output_folder(self) -> Path | None:
        """The folder to which this process writes; None if it does not write files."""
        return self.workdir if is_process_0() else None

    def select(self, selector: str) -> Header:
        """Returns the header of a checkpoint: `best`, `latest` or a step number.

        Raises:
            UserError: if the checkpoint does not exist.
            RunError: if any checkpoint is damaged, unless `selector` is the step of an
                intact checkpoint.
        """
        headers = {str(step): header for step, header in self.headers.items()}
        steps = ", ".join(headers) or "none"
        if self.damaged_steps and selector not in headers:
            raise RunError(
                f"checkpoint {self.workdir}/{self.damaged_steps[-1]} is damaged: its "
                f"files do not match SHA256SUMS; intact steps: {steps}; choose one "
                "of them, or repeat the training command, which renames the damaged "
                "checkpoint"
            )
        if not headers:
            raise UserError(
                f"workdir: {self.workdir} contains no checkpoints; choose the folder "
                "of a run, or start a run in this folder with rnnmnist train"
            )
        if selector == "best":
            return best_header(headers.values())
        headers["latest"] = self.headers[self.step]
        if selector not in headers:
            raise UserError(
                f"step: {self.workdir or 'the run'} has no checkpoint {selector}; "
                f"choose best, latest or one of {steps}"
            )
        return headers[selector]

    def read_params(self, header: Header) -> Params:
        """Returns the evaluated parameters of a checkpoint."""
        if header.step not in self.params and self.workdir is not None:
            from rnnmnist.runs import checkpoints  # imports orbax

            # If JAX has not initialized its backends, Orbax would initialize a CPU
            # backend with a single device. Initialize backends with all devices
            # first, because a training run can follow.
            make_single_device_mesh()
            # The shapes of the parameters are the same on all platforms.
            execution = Execution.create(header.config, "cpu")
            model = make_model(header.config.model, header.task, execution)
            target = abstract_ensemble(abstract_params(model), header.config.num_seeds)
            self.params[header.step] = checkpoints.read_arrays(
                self.workdir, header.step, "params", target
            )
        return self.params[header.step]

    def read_state(self, target: Tree | None = None) -> Tree | None:
        """Returns `state`, or None if the checkpoint has no `state`.

        If necessary, `state` is read from the workdir. `target` is a pytree with the
        expected names and shapes.
        """
        workdir, step = self.workdir, self.step
        if self.state is None and workdir and (workdir / f"{step}/state").exists():
            from rnnmnist.runs import checkpoints  # imports orbax

            self.state = checkpoints.read_arrays(workdir, step, "state", target)
        return self.state

    def begin(self, config: RunConfig | None) -> None:
        """Prepares the record for training.

        Removes checkpoints that killed processes left unfinished, and renames damaged
        checkpoints. `config` is None if the run is complete and only evaluated.
        """
        if self._output_folder is not None:
            remove_unfinished(self._output_folder)
            for step in self.damaged_steps:
                move_aside(self._output_folder / str(step))
        self.damaged_steps.clear()
        if config is not None:
            # Drop lines that a killed process logged after its last checkpoint.
            self.lines[:] = [line for line in self.lines if line.step <= self.step]
            if self._output_folder is not None:
                write_json(
                    self._output_folder / "config.json", functions_to_specs(config)
                )
                logs.write(self._output_folder, self.lines)

    def log(self, metrics: StepMetrics) -> None:
        """Appends a line to the log."""
        if self._output_folder is not None:
            logs.append(self._output_folder, metrics)
        # As in the file, leave out the confusion matrices, which can be large.
        self.lines.append(logs.parse(metrics.to_json()))

    def save(self, header: Header, params: Params, state: Tree) -> None:
        """Saves a checkpoint and deletes outdated checkpoints.

        The trees contain NumPy arrays, or JAX arrays that are replicated over devices.
        """
        params, state = jax.device_get((params, state))
        self.headers[header.step] = header
        self.params[header.step] = params
        self.state = state
        outdated = outdated_steps(self.headers.values())
        if self._output_folder is not None:
            from rnnmnist.runs import checkpoints  # imports orbax

            items = {"params": params, "state": state}
            saved_header = replace_functions(header)
            checkpoints.save(self._output_folder, saved_header, items, outdated)
        for step in outdated:
            del self.headers[step]
            self.params.pop(step, None)

    def save_arrays(self, arrays: Mapping[str, ArrayLike]) -> None:
        """Saves the arrays passed to `fit`, unless a resumed run already has them."""
        folder = self._output_folder
        if folder is None or (self.step and (folder / ARRAYS_FOLDER).exists()):
            return
        # The next training run removes the arrays of a killed process.
        unfinished = folder / UNFINISHED_FOLDER / ARRAYS_FOLDER
        with set_missing_filename(folder / ARRAYS_FOLDER):
            try:
                unfinished.mkdir(parents=True, exist_ok=True)
                for name, array in arrays.items():
                    np.save(unfinished / f"{name}.npy", array, allow_pickle=False)
                shutil.rmtree(folder / ARRAYS_FOLDER, ignore_errors=True)
                unfinished.rename(folder / ARRAYS_FOLDER)
            finally:
                remove_unfinished(folder)

    def save_result(self, result: Result, table: str | None = None) -> None:
        """Writes a result file and, if `table` is not None, a CSV file of predictions.

        If the workdir is read-only, a warning is logged instead.
        """
        if self._output_folder is None:
            return
        path = self._output_folder / result.path
        try:
            write_json(path, to_json(result))
            if table is not None:
                write_atomically(path.with_suffix(".csv"), table.encode())
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            _logger.warning(f"the result could not be saved: {error}")


def save_network(workdir: Path, header: Header, params: Params) -> None:
    """Saves a checkpoint without `state` in a folder that contains no checkpoints."""
    from rnnmnist.runs import checkpoints  # imports orbax

    header = replace_functions(header)
    with lock(workdir):
        if list_steps(workdir):
            raise UserError(
                f"folder: {workdir} contains checkpoints; choose another folder"
            )
        checkpoints.save(workdir, header, {"params": params})


@contextlib.contextmanager
def open_record(workdir: Path | None) -> Iterator[Record]:
    """Locks the workdir of a training run, and yields the run's record.

    In a multi-process run, process 0 creates and locks the workdir.
    """
    if workdir is None:
        yield Record()
        return
    with lock(workdir) if is_process_0() else contextlib.nullcontext():
        wait_for_process_0()
        if not workdir.is_dir():
            raise UserError(
                f"workdir: {workdir} is not the same folder for all processes; choose "
                "a folder on a shared file system"
            )
        record = Record(workdir)
        if record.step and not (workdir / f"{record.step}/state").exists():
            raise UserError(
                f"workdir: {workdir} contains only parameters, so training cannot "
                "resume from it; choose another workdir"
            )
        yield record


def outdated_steps(headers: Iterable[Header]) -> set[int]:
    """Returns the steps of the checkpoints to delete.

    A run keeps the best step, the latest step and the latest `train.keep_checkpoints`
    validated steps. The latest step may not be validated, because a signal can stop a
    run between two validations.

    Args:
        headers: the headers of all checkpoints, in ascending order of steps.
    """
    headers = list(headers)
    latest = headers[-1]
    steps = [header.step for header in headers]
    validated_steps = [header.step for header in headers if header.metrics is not None]
    latest_steps = (validated_steps or steps)[-latest.config.train.keep_checkpoints :]
    return {*steps} - {best_header(headers).step, latest.step, *latest_steps}


def best_header(headers: Iterable[Header]) -> Header:
    """Returns the header with the highest validation accuracy, the earliest on a tie.

    If there are class weights, the balanced accuracy is used instead. If there are
    fewer than `MIN_VALIDATION_EXAMPLES` validation examples, the last validated step is
    the best step.
    """

    def sort_key(header: Header) -> tuple[float, int]:
        metrics = header.metrics
        if metrics is None:
            return -1.0, header.step
        if metrics.examples < MIN_VALIDATION_EXAMPLES:
            return 0.0, header.step
        is_weighted = header.config.train.has_class_weights
        if is_weighted and metrics.balanced_accuracy is not None:
            return metrics.balanced_accuracy, -header.step
        return metrics.accuracy, -header.step

    return max(headers, key=sort_key)
