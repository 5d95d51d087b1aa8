"""The record of a run: its log, checkpoints, tables and results.

A training writes into a record, and a trained network is opened from one. Neither knows
the form of the record: it is in memory, and with a workdir also in the files of that
folder, which are read once.
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
from rnnmnist.config.resolving import RunConfig, name_functions
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
    """The lines, checkpoints and tables of a run, in memory or also in a workdir.

    Everything that this process saves stays in memory, so that no file is read twice.
    Of several processes, the first one writes.

    Attributes:
        workdir: the folder of the run; None: the run is in memory only.
        headers: the headers of the kept checkpoints by their steps, ascending.
        damaged: the steps of checkpoints with damaged files, which have no header.
        params: the evaluated parameters of checkpoints by their steps, as NumPy arrays
            with a leading ensemble axis. Only checkpoints that this process has saved
            or read are present.
        state: the arrays of the training at the newest step, for a resume; None if this
            process has neither saved nor read them. Of a fit in closed form, they are
            the logits `left_out` of its leave-one-out predictions, float64 [ensemble,
            examples, classes], with the examples in the order of their groups.
    """

    def __init__(self, workdir: Path | None = None) -> None:
        """Reads the headers of all checkpoints, whose files are compared first."""
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
        """The step of the newest checkpoint, from which a run resumes; 0 without."""
        return max(self.headers, default=0)

    @property
    def _written(self) -> Path | None:
        """The folder in which this process writes; None if it writes no files."""
        return self.workdir if is_process_0() else None

    def select(self, selector: str) -> Header:
        """Returns the header of the checkpoint `best`, `latest`, or with this number.

        Raises:
            UserError: if there is no such checkpoint.
            RunError: if a checkpoint is damaged, unless another one is named.
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

            # If jax has no devices yet, this splits the CPU as for a run, which may
            # follow. Otherwise orbax would make a single device.
            make_device_mesh()
            execution = Execution.create(header.config, "cpu")  # shapes are the same
            model = make_model(header.config.model, header.task, execution)
            like = abstract_ensemble(abstract_params(model), header.config.num_seeds)
            self.params[header.step] = checkpoints.read_arrays(
                self.workdir, header.step, "params", like
            )
        return self.params[header.step]

    def read_state(self, like: Tree | None = None) -> Tree | None:
        """Returns `state`, with the names and shapes of `like`; None if it is gone."""
        workdir, step = self.workdir, self.step
        if self.state is None and workdir and (workdir / f"{step}/state").exists():
            from rnnmnist.runs import checkpoints  # imports orbax

            self.state = checkpoints.read_arrays(workdir, step, "state", like)
        return self.state

    def begin(self, config: RunConfig | None) -> None:
        """Prepares the record for a training with a configuration.

        Removes the unfinished files of a killed process, and moves damaged checkpoints
        aside. A complete run, which is only evaluated, has None as its configuration.
        """
        if self._written is not None:
            remove_unfinished(self._written)
            for folder in (self._written, self._written / "evaluation"):
                for path in folder.glob(f".*{TEMPORARY}"):
                    # A process beside this one can be writing a new file.
                    if path.stat().st_mtime < time.time() - 60:
                        path.unlink(missing_ok=True)
            for step in self.damaged:
                move_aside(self._written / str(step))
        self.damaged.clear()
        if config is not None:
            # A killed process wrote later lines, which are written again.
            self.lines[:] = [line for line in self.lines if line.step <= self.step]
            if self._written is not None:
                write_json(self._written / "config.json", name_functions(config))
                logs.remove_metrics_after(self._written, self.step)

    def log(self, metrics: StepMetrics) -> None:
        """Adds a line to the log."""
        if self._written is not None:
            logs.append(self._written, metrics)
        # As the line of a file, it has no confusion matrices, which can be large.
        self.lines.append(logs.parse(metrics.to_json()))

    def save(self, header: Header, params: Params, state: Tree) -> None:
        """Saves a checkpoint, and deletes those that are no longer kept.

        The arrays are NumPy's, or replicated on the devices.
        """
        params, state = jax.device_get((params, state))
        self.headers[header.step] = header
        self.params[header.step] = params
        self.state = state
        outdated = outdated_steps(self.headers.values())
        if self._written is not None:
            from rnnmnist.runs import checkpoints  # imports orbax

            items = {"params": params, "state": state}
            written = without_functions(header)
            checkpoints.save(self._written, written, items, outdated)
        for step in outdated:
            del self.headers[step]
            self.params.pop(step, None)

    def save_arrays(self, arrays: Mapping[str, ArrayLike]) -> None:
        """Writes the arrays of `fit`, unless an earlier start of the run has."""
        folder = self._written
        if folder is None or (self.step and (folder / ARRAYS).exists()):
            return
        with write_folder(folder / ARRAYS) as new:
            for name, array in arrays.items():
                np.save(new / f"{name}.npy", array, allow_pickle=False)

    def save_result(self, result: Result, table: str | None = None) -> None:
        """Writes the file of a result, and the table of its predictions beside it.

        The table is the text of a CSV file. A read-only workdir causes a warning.
        """
        if self._written is None:
            return
        path = self._written / result.path
        try:
            write_json(path, to_json(result))
            if table is not None:
                write_atomically(path.with_suffix(".csv"), table.encode())
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            _logger.warning(f"the result cannot be saved: {error}")

    def describe_stop(self, step: int, num_steps: int) -> str:
        """Describes a run that a signal has stopped after a step, and the remedy."""
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
    """Saves a checkpoint without a training state in a folder that has none."""
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
    """Yields the record of a training, whose workdir, if there is one, is locked.

    Of several processes, the first one creates the workdir and holds the lock.
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
