"""A run in a folder: the record that writes files, and reads those of earlier runs."""

import contextlib
import errno
import functools
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from rnnmnist.config.platforms import Execution
from rnnmnist.config.resolving import RunConfig
from rnnmnist.errors import RunError, UserError
from rnnmnist.models.classifier import make_model
from rnnmnist.models.parameters import Params, abstract_params
from rnnmnist.runs import checkpoints, logs
from rnnmnist.runs.checkpoint_files import move_aside, read_header
from rnnmnist.runs.logs import Metrics
from rnnmnist.runs.records import Header, Record, Tree, outdated_steps
from rnnmnist.runs.results import Result, to_json
from rnnmnist.runs.workdir import (
    ARRAYS,
    UNFINISHED,
    check_folders,
    list_steps,
    lock,
    remove_unfinished,
)
from rnnmnist.runs.writing import write_atomically, write_folder, write_json
from rnnmnist.runtime.devices import make_device_mesh
from rnnmnist.runtime.distributed import is_process_0, wait_for_process_0
from rnnmnist.runtime.mesh import abstract_ensemble

_logger = logging.getLogger(__name__)


class Folder(Record):
    """The record of a run in a workdir, whose files are read on first use.

    What this process saves stays in memory, too, so that no file is read twice. Of
    several processes, the first one writes.

    Attributes:
        damaged: the steps of checkpoints with damaged files, which have no header.
    """

    workdir: Path

    def __init__(self, workdir: Path) -> None:
        """Reads the headers of all checkpoints, whose files are compared first."""
        super().__init__()
        self.workdir = workdir
        self.damaged: list[int] = []
        for step in list_steps(workdir):
            header = read_header(workdir / str(step))
            if header is None:
                self.damaged.append(step)
            else:
                self.headers[step] = header

    @functools.cached_property
    def lines(self) -> list[Metrics]:
        """The lines of the log."""
        return logs.read(self.workdir)

    def select(self, selector: str) -> Header:
        """Returns the header of the checkpoint `best`, `latest`, or with this number.

        Raises:
            UserError: if there is no such checkpoint.
            RunError: if a checkpoint is damaged, unless another one is named.
        """
        undamaged = [str(step) for step in self.headers]
        if self.damaged and selector not in undamaged:
            raise RunError(
                f"checkpoint {self.workdir / str(self.damaged[-1])} is damaged: its "
                "files differ from SHA256SUMS; the undamaged steps are "
                f"{', '.join(undamaged) or 'none'}; choose one of them, or repeat the "
                "training command, which moves the damaged one aside"
            )
        return super().select(selector)

    def read_params(self, header: Header) -> Params:
        """Returns the evaluated parameters of a checkpoint."""
        if header.step not in self.params:
            # If jax has no devices yet, this splits the CPU as for a run, which may
            # follow. Otherwise orbax would make a single device.
            make_device_mesh()
            execution = Execution.create(header.config, "cpu")  # has no effect here
            model = make_model(header.config.model, header.task, execution)
            like = abstract_ensemble(abstract_params(model), header.config.num_seeds)
            self.params[header.step] = checkpoints.read_arrays(
                self.workdir, header.step, "params", like
            )
        return super().read_params(header)

    def read_state(self, like: Tree | None = None) -> Tree | None:
        """Returns `state`, with the names and shapes of `like`; None if it is gone."""
        if self.state is None and (self.workdir / str(self.step) / "state").exists():
            self.state = checkpoints.read_arrays(self.workdir, self.step, "state", like)
        return super().read_state(like)

    def begin(self, config: RunConfig | None) -> None:
        """Removes what a killed process has left, and moves damaged steps aside.

        Unless the run is complete, also writes its configuration.
        """
        if is_process_0():
            remove_unfinished(self.workdir)
            for step in self.damaged:
                move_aside(self.workdir / str(step))
        self.damaged.clear()
        if config is not None:
            # A killed process wrote later lines, which are written again.
            self.lines[:] = [line for line in self.lines if line.step <= self.step]
            if is_process_0():
                write_json(self.workdir / "config.json", config)
                logs.remove_metrics_after(self.workdir, self.step)

    def log(self, metrics: Metrics) -> None:
        """Appends a line to the log."""
        if is_process_0():
            logs.append(self.workdir, metrics)
        super().log(metrics)

    def save(self, header: Header, params: Params, state: Tree) -> None:
        """Saves a checkpoint, and deletes those that are no longer kept."""
        if is_process_0():
            outdated = outdated_steps([*self.headers.values(), header])
            items = {"params": params, "state": state}
            checkpoints.save(self.workdir, header, items, outdated)
        super().save(header, params, state)

    def save_table(self, name: str, table: str) -> None:
        """Writes a CSV file beside the results."""
        path = self.workdir / "evaluation" / f"{name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, table.encode())

    def save_arrays(self, arrays: Mapping[str, ArrayLike]) -> None:
        """Writes the arrays of `fit`, unless an earlier start of the run has."""
        path = self.workdir / ARRAYS
        if self.step and path.exists():
            return
        with write_folder(path, self.workdir / UNFINISHED) as folder:
            for name, array in arrays.items():
                np.save(folder / f"{name}.npy", array, allow_pickle=False)
        remove_unfinished(self.workdir)

    def save_result(self, result: Result) -> None:
        """Writes the file of a result. A read-only workdir causes a warning."""
        if not is_process_0():
            return
        try:
            write_json(self.workdir / result.path, to_json(result))
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            _logger.warning(f"the result is not recorded: {error}")

    def describe_stop(self, step: int, num_steps: int) -> str:
        """Returns the message of a run that a signal has stopped after a step."""
        saved = f"saved step {step}" if step else "before the first step"
        return (
            f"{saved} of {num_steps} in {self.workdir}; start the run again to resume"
        )


def save_network(workdir: Path, header: Header, params: Params) -> None:
    """Saves a checkpoint without a training state in a folder that has none."""
    with lock(workdir):
        check_folders(workdir)
        if list_steps(workdir):
            raise UserError(f"folder: {workdir} has checkpoints; name another folder")
        checkpoints.save(workdir, header, {"params": params})


@contextlib.contextmanager
def open_folder(workdir: Path) -> Iterator[Folder]:
    """Locks a workdir for a training, and yields its record.

    Of several processes, the first one creates the workdir and holds the lock.
    """
    with lock(workdir) if is_process_0() else contextlib.nullcontext():
        wait_for_process_0()
        if not workdir.is_dir():
            raise UserError(
                f"workdir: {workdir} is not one folder for all processes; name one on "
                "a file system that they share"
            )
        check_folders(workdir)
        folder = Folder(workdir)
        if folder.step and not (workdir / str(folder.step) / "state").exists():
            raise UserError(
                f"workdir: {workdir} holds parameters only, which cannot be trained "
                "on; name another workdir"
            )
        yield folder
