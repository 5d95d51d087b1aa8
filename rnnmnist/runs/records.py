"""The record of a run: its log, checkpoints, tables and results.

Training writes to a record, and a trained network is opened from a record. Neither
depends on the storage: a record is kept in memory and, with a workdir, also in files.
Each file is read once.
"""

import contextlib
import errno
import functools
import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import numpy as np
from numpy.typing import ArrayLike

from rnnmnist.config.platforms import Execution
from rnnmnist.config.resolving import RunConfig, functions_to_specs
from rnnmnist.errors import RunError, UserError
from rnnmnist.models.classifier import make_model
from rnnmnist.models.parameters import Params, abstract_params
from rnnmnist.runs import logs
from rnnmnist.runs.checkpoint_files import (
    Header,
    Tree,
    move_aside,
    read_header,
    without_functions,
)
from rnnmnist.runs.logs import StepMetrics
from rnnmnist.runs.results import Result, to_json
from rnnmnist.runs.selection import best_header, outdated_steps
from rnnmnist.runs.workdir import (
    ARRAYS,
    list_steps,
    lock,
    remove_unfinished,
)
from rnnmnist.runs.writing import (
    TEMPORARY,
    write_atomically,
    write_folder,
    write_json,
)
from rnnmnist.runtime.devices import make_device_mesh
from rnnmnist.runtime.distributed import is_process_0, wait_for_process_0
from rnnmnist.runtime.mesh import abstract_ensemble

_logger = logging.getLogger(__name__)


class Record:
    """Log, checkpoints and tables of a run, in memory and optionally in a workdir.

    All data that this process saves stay in memory, so that no file is read twice. With
    several processes, only process 0 writes.

    Attributes:
        workdir: the folder of the run; None keeps the run in memory only.
        headers: the headers of the kept checkpoints by step, ascending.
        damaged: the steps of damaged checkpoints, which have no header.
        params: evaluated parameters by step, as NumPy arrays with a leading ensemble
            axis. Contains only checkpoints that this process has saved or read.
        state: the arrays of the training at the newest step, for a resume; None if this
            process has neither saved nor read them. For a closed-form fit, the
            leave-one-out logits `left_out`, float64 [ensemble, examples, classes], with
            examples in the order of their groups.
    """

    def __init__(self, workdir: Path | None = None) -> None:
        """Verifies all checkpoints in the workdir and reads their headers."""
        self.workdir = workdir
        self.headers: dict[int, Header] = {}
        self.damaged: list[int] = []
        self.params: dict[int, Params] = {}
        self.state: Tree | None = None
        if workdir is not None:
            for step in list_steps(workdir):
                header = read_header(workdir / str(step))
                if header is None:
                    self.damaged.append(step)
                else:
                    self.headers[step] = header

    @functools.cached_property
    def lines(self) -> list[StepMetrics]:
        """The lines of the log."""
        return [] if self.workdir is None else logs.read(self.workdir)

    @property
    def step(self) -> int:
        """The newest checkpoint's step, at which a run resumes; 0 if there is none."""
        return max(self.headers, default=0)

    @property
    def _output_folder(self) -> Path | None:
        """The folder to which this process writes; None if it does not write files."""
        return self.workdir if is_process_0() else None

    def select(self, selector: str) -> Header:
        """Returns the header of a checkpoint: `best`, `latest` or a step number.

        Raises:
            UserError: if the checkpoint does not exist.
            RunError: if a checkpoint is damaged, unless `selector` is the number of an
                undamaged checkpoint.
        """
        named = {str(step): header for step, header in self.headers.items()}
        steps = ", ".join(named) or "none"
        if self.damaged and selector not in named:
            raise RunError(
                f"checkpoint {self.workdir}/{self.damaged[-1]} is damaged: its files "
                f"differ from SHA256SUMS; the undamaged steps are {steps}; choose one, "
                "or repeat the training command, which renames the damaged checkpoint"
            )
        if not named:
            raise UserError(
                f"workdir: {self.workdir} contains no checkpoint; name the folder of a "
                "run, or train in it with rnnmnist train"
            )
        if selector == "best":
            return best_header(named.values())
        named["latest"] = self.headers[self.step]
        if selector not in named:
            raise UserError(
                f"step: {self.workdir or 'the run'} has no step {selector}; choose "
                f"best, latest or one of {steps}"
            )
        return named[selector]

    def read_params(self, header: Header) -> Params:
        """Returns the evaluated parameters of a checkpoint."""
        if header.step not in self.params and self.workdir is not None:
            from rnnmnist.runs import checkpoints  # imports orbax

            # If jax has not initialized its devices, split the CPU as for a run, which
            # can follow. Otherwise orbax would initialize a single device.
            make_device_mesh()
            # The shapes of the parameters are the same on all platforms.
            execution = Execution.create(header.config, "cpu")
            model = make_model(header.config.model, header.task, execution)
            like = abstract_ensemble(abstract_params(model), header.config.num_seeds)
            self.params[header.step] = checkpoints.read_arrays(
                self.workdir, header.step, "params", like
            )
        return self.params[header.step]

    def read_state(self, like: Tree | None = None) -> Tree | None:
        """Returns `state`, and reads it first if necessary; None if it does not exist.

        The arrays must have the names and shapes of `like`.
        """
        workdir, step = self.workdir, self.step
        if self.state is None and workdir and (workdir / f"{step}/state").exists():
            from rnnmnist.runs import checkpoints  # imports orbax

            self.state = checkpoints.read_arrays(workdir, step, "state", like)
        return self.state

    def begin(self, config: RunConfig | None) -> None:
        """Prepares the record for training.

        Removes unfinished files of killed processes and moves damaged checkpoints
        aside. `config` is None for a complete run, which is only evaluated.
        """
        if self._output_folder is not None:
            remove_unfinished(self._output_folder)
            for folder in (self._output_folder, self._output_folder / "evaluation"):
                for path in folder.glob(f".*{TEMPORARY}"):
                    # Another process can still be writing a newer file.
                    if path.stat().st_mtime < time.time() - 60:
                        path.unlink(missing_ok=True)
            for step in self.damaged:
                move_aside(self._output_folder / str(step))
        self.damaged.clear()
        if config is not None:
            # Drop lines that a killed process logged after its last checkpoint.
            self.lines[:] = [line for line in self.lines if line.step <= self.step]
            if self._output_folder is not None:
                write_json(
                    self._output_folder / "config.json", functions_to_specs(config)
                )
                logs.remove_metrics_after(self._output_folder, self.step)

    def log(self, metrics: StepMetrics) -> None:
        """Appends a line to the log."""
        if self._output_folder is not None:
            logs.append(self._output_folder, metrics)
        # Leave out confusion matrices, which can be large, as in the file.
        self.lines.append(logs.parse(metrics.to_json()))

    def save(self, header: Header, params: Params, state: Tree) -> None:
        """Saves a checkpoint, and deletes checkpoints that are no longer kept.

        The trees contain NumPy arrays, or jax arrays replicated over the devices.
        """
        params, state = jax.device_get((params, state))
        self.headers[header.step] = header
        self.params[header.step] = params
        self.state = state
        outdated = outdated_steps(self.headers.values())
        if self._output_folder is not None:
            from rnnmnist.runs import checkpoints  # imports orbax

            items = {"params": params, "state": state}
            written = without_functions(header)
            checkpoints.save(self._output_folder, written, items, outdated)
        for step in outdated:
            del self.headers[step]
            self.params.pop(step, None)

    def save_arrays(self, arrays: Mapping[str, ArrayLike]) -> None:
        """Saves the arrays passed to `fit`, unless the resumed run already has them."""
        folder = self._output_folder
        if folder is None or (self.step and (folder / ARRAYS).exists()):
            return
        with write_folder(folder / ARRAYS) as new:
            for name, array in arrays.items():
                np.save(new / f"{name}.npy", array, allow_pickle=False)

    def save_result(self, result: Result, table: str | None = None) -> None:
        """Writes a result file, and a CSV file with the table of its predictions.

        In a read-only workdir, logs a warning instead.
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
            _logger.warning(f"the result cannot be saved: {error}")

    def describe_stop(self, step: int, num_steps: int) -> str:
        """Describes a run that a signal stopped at a step, and how to continue it."""
        if step == 0:
            return (
                f"before the first step of {num_steps}, so nothing is saved; "
                "start the run again"
            )
        if self.workdir is None:
            return (
                f"stopped at step {step} of {num_steps}, and nothing is saved; with a "
                "workdir, the same call would resume"
            )
        return (
            f"saved step {step} of {num_steps} in {self.workdir}; start the run again "
            "to resume"
        )


def save_network(workdir: Path, header: Header, params: Params) -> None:
    """Saves a checkpoint without `state`, in a folder without checkpoints."""
    from rnnmnist.runs import checkpoints  # imports orbax

    header = without_functions(header)
    with lock(workdir):
        if list_steps(workdir):
            raise UserError(
                f"folder: {workdir} contains checkpoints; name another folder"
            )
        checkpoints.save(workdir, header, {"params": params})


@contextlib.contextmanager
def open_record(workdir: Path | None) -> Iterator[Record]:
    """Yields the record of a training run and locks its workdir.

    With several processes, process 0 creates the workdir and holds the lock.
    """
    if workdir is None:
        yield Record()
        return
    with lock(workdir) if is_process_0() else contextlib.nullcontext():
        wait_for_process_0()
        if not workdir.is_dir():
            raise UserError(
                f"workdir: {workdir} is not the same folder for all processes; name "
                "one on a shared file system"
            )
        record = Record(workdir)
        if record.step and not (workdir / f"{record.step}/state").exists():
            raise UserError(
                f"workdir: {workdir} contains only parameters, from which training "
                "cannot resume; name another workdir"
            )
        yield record
