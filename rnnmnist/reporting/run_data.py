"""The data that a report is made from: a run's files and its predictions."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rnnmnist.config.schema import Config
from rnnmnist.config.tasks import MIN_VALIDATION_EXAMPLES, Task
from rnnmnist.data.examples import Examples
from rnnmnist.evaluation import scoring
from rnnmnist.evaluation.predictions import Predictions, predict
from rnnmnist.evaluation.restore import restore_model
from rnnmnist.runs import logs, results
from rnnmnist.runs.checkpoints import read_header
from rnnmnist.runs.checksums import params_sha256
from rnnmnist.runs.logs import Metrics, Session
from rnnmnist.runs.results import Result
from rnnmnist.runs.selection import with_step
from rnnmnist.runtime.mesh import make_mesh

JsonObject = dict[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)  # arrays have no single truth value
class RunData:
    """A run at one of its steps."""

    workdir: Path
    step: int
    selector: str  # `best`, `latest` or a number
    config: Config
    trained: Task  # of the training's data
    metrics: list[Metrics]  # lines of `metrics.jsonl`; empty if there is no file
    sessions: list[Session]
    validation: Metrics | None  # at this step, from the checkpoint
    result: Result  # of the test split, or of validation if there is none
    networks: list[Predictions]  # of each network, on the same split
    examples: Examples  # the same split

    @property
    def task(self) -> Task:
        """The task of the evaluated data."""
        return self.result.task

    @property
    def selects(self) -> bool:
        """Whether validation has enough examples to select a step."""
        return self.trained.examples.validation >= MIN_VALIDATION_EXAMPLES

    @property
    def noun(self) -> str:
        """The word for several examples."""
        return self.task.noun

    @property
    def split(self) -> str:
        """The evaluated split."""
        return self.result.split

    @property
    def validated(self) -> list[Metrics]:
        """The metrics of the validation split."""
        return [line for line in self.metrics if line.split == "validation"]

    @property
    def seconds(self) -> float | None:
        """The duration of all recorded sessions; None if there are none."""
        seconds = [session.seconds["total"] for session in self.sessions]
        return sum(seconds) if seconds else None


def load_run_data(
    workdir: Path, selector: str, data_paths: Mapping[str, str | None]
) -> RunData:
    """Reads a run's files and predicts every example of the test split.

    If the data have no test split, validation takes its place. The only file that it
    writes is the log of evaluations on the test split. `data_paths` are settings that
    replace those of the checkpoint.
    """

    def load_step(step: int) -> RunData:
        restored = restore_model(workdir, step, make_mesh(1, 1, 1))
        task, split, examples = scoring.load_split(restored, None, data_paths)
        sha256 = params_sha256(restored.params)
        if split == "test":
            results.log_test_reading(workdir, step, sha256, "report")
        path = results.result_path(workdir, split, step)
        result = results.read_result(path, sha256)
        if result is None or result.task.sha256 != task.sha256:
            result = scoring.score(restored, step, task, split, examples)
        return RunData(
            workdir=workdir,
            step=step,
            selector=selector,
            config=restored.config.replace(data_paths),
            trained=restored.task,
            metrics=logs.read(workdir, Metrics),
            sessions=logs.read(workdir, Session),
            validation=read_header(workdir, step).metrics,
            result=result,
            networks=predict(
                restored.model,
                restored.params,
                restored.put(examples),
                examples.labels,
            ),
            examples=examples,
        )

    return with_step(workdir, selector, load_step)
