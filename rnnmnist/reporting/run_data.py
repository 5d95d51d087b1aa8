"""All that is known of a run at one step: what a report is drawn from."""

import dataclasses
from pathlib import Path
from typing import Any

from rnnmnist.checkpoints.checksums import params_sha256
from rnnmnist.checkpoints.selection import with_step
from rnnmnist.checkpoints.store import read_metrics
from rnnmnist.config.schema import Config
from rnnmnist.data import datasets
from rnnmnist.data.datasets import Examples
from rnnmnist.evaluation import results
from rnnmnist.evaluation.predictions import EvaluationSplit, Predictions, predict
from rnnmnist.evaluation.restore import restore
from rnnmnist.runtime.mesh import make_mesh, replicated
from rnnmnist.runtime.workdir import MetricsFile

Line = dict[str, Any]  # of a file of JSON lines


@dataclasses.dataclass(frozen=True)
class Session:
    """One process that trained, as `sessions.jsonl` has it."""

    start: Line
    end: Line | None  # None where it was killed, or trains still


@dataclasses.dataclass(frozen=True, eq=False)  # arrays are not equal or unequal
class RunData:
    """A run at one of its steps."""

    workdir: Path
    step: int
    wanted: str  # how that step was asked for
    config: Config
    metrics: list[Line]  # none where a run was copied without them
    sessions: list[Session]  # likewise
    validation: Line | None  # at this step, as the checkpoint carries it
    test: dict[str, Any]  # as the result file has it
    networks: list[Predictions]  # of each network, on the test split
    images: Examples  # of the test split
    classes: list[str]

    @property
    def members(self) -> list[dict[str, Any]]:
        """The test result of each network, in the order of `networks`."""
        return self.test.get("members") or [self.test]

    @property
    def validated(self) -> list[Line]:
        """The lines of the validation split."""
        return [line for line in self.metrics if line["split"] == "validation"]

    @property
    def seconds(self) -> float | None:
        """Of all sessions that ended; None where none is known."""
        ended = [
            session.end["seconds"]["total"]
            for session in self.sessions
            if session.end is not None and "total" in session.end.get("seconds", {})
        ]
        return sum(ended) if ended else None


def load_run_data(workdir: Path, wanted: str, places: dict[str, Any]) -> RunData:
    """Reads a run's files and asks its networks about every test image.

    Writes nothing but the line that says that the test split was read.

    Args:
        workdir: of the run, whose trainer may be running.
        wanted: `best`, `latest` or a step's number.
        places: settings of `data` that are others here than the trainer's.

    Raises:
        UserError: when there is no such run or step, or no data.
        RunError: when a checkpoint cannot be read.
    """

    def at(step: int) -> RunData:
        mesh = make_mesh(1, 1, 1)
        config, model, params = restore(workdir, step, replicated(mesh))
        config = config.replace(places)
        images = datasets.load(config.data)["test"]
        sha256, validation = params_sha256(params), read_metrics(workdir, step)
        results.log_test_reading(workdir, step, sha256, "report")
        path = results.result_path(workdir, "test", step)
        test = results.read_result(path, sha256)
        if test is None:
            test = results.score(params, step, "test", images, config, mesh)
        return RunData(
            workdir=workdir,
            step=step,
            wanted=wanted,
            config=config,
            metrics=[
                line
                for line in MetricsFile.read(workdir / "metrics.jsonl")
                if {"split", "loss", "accuracy"} <= line.keys()
            ],
            sessions=read_sessions(workdir / "sessions.jsonl"),
            validation=validation,
            test=test,
            networks=predict(model, params, EvaluationSplit.device_put(images, mesh)),
            images=images,
            classes=datasets.class_names(config.data.name),
        )

    return with_step(workdir, wanted, at)


def read_sessions(path: Path) -> list[Session]:
    """The sessions of a run, in their order; of a file that need not exist."""
    sessions: list[Session] = []
    for line in MetricsFile.read(path):
        if line.get("event") == "start":
            sessions.append(Session(line, None))
        elif line.get("event") == "end" and sessions and sessions[-1].end is None:
            sessions[-1] = Session(sessions[-1].start, line)
    return sessions
