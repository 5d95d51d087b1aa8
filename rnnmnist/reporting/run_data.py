"""The data that a report is made from: a run's files and its predictions."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rnnmnist.config.schema import Config
from rnnmnist.config.tasks import MIN_VALIDATION_EXAMPLES, Task
from rnnmnist.data.examples import Examples
from rnnmnist.evaluation.metrics import score_logits
from rnnmnist.evaluation.network import TrainedNetwork
from rnnmnist.evaluation.predictions import Predictions
from rnnmnist.models.classifier import count_params
from rnnmnist.runs import logs
from rnnmnist.runs.logs import Metrics, Session
from rnnmnist.runs.results import Scores


@dataclasses.dataclass(frozen=True, eq=False)  # arrays have no single truth value
class RunData:
    """A run at one of its steps."""

    workdir: Path
    step: int
    selector: str  # `best`, `latest` or a number
    config: Config
    num_parameters: int  # of each network
    params_sha256: str
    trained: Task  # of the training's data
    task: Task  # of the evaluated data
    split: str  # the evaluated split: test, or validation if there is none
    examples: Examples  # of the evaluated split
    networks: list[Predictions]  # of each network
    scores: Scores
    validation: Metrics | None  # at this step, from the checkpoint
    metrics: list[Metrics]  # lines of `metrics.jsonl`; empty if there is no file
    sessions: list[Session]

    @property
    def of_other_data(self) -> bool:
        """Whether the evaluated data are not those of the training."""
        return self.task.sha256 != self.trained.sha256

    @property
    def evaluated(self) -> str:
        """The evaluated split, with the name of its data if they are other ones."""
        return f"{self.split} on {self.task.name}" if self.of_other_data else self.split

    @property
    def selects(self) -> bool:
        """Whether validation has enough examples to select a step."""
        return self.trained.examples.validation >= MIN_VALIDATION_EXAMPLES

    @property
    def validated(self) -> list[Metrics]:
        """The metrics of the validation split."""
        return [line for line in self.metrics if line.split == "validation"]

    @property
    def seconds(self) -> str:
        """The duration of all recorded sessions."""
        seconds = [session.seconds["total"] for session in self.sessions]
        return f"{sum(seconds):,.1f}" if seconds else "not recorded"


def load_run_data(
    workdir: Path, selector: str, data_paths: Mapping[str, str | None]
) -> RunData:
    """Reads a run's files and predicts every example of the test split.

    If the data have no test split, validation takes its place. The only file that it
    writes is the log of evaluations on the test split. `data_paths` are settings that
    replace those of the checkpoint.
    """
    network = TrainedNetwork(workdir, selector)
    task, split, examples = network.load_split(None, data_paths, "report")
    labels = examples.labels
    logits = network.logits(examples, every_step=True)
    networks = [
        Predictions.from_logits(one, labels, examples.lengths) for one in logits
    ]
    final = logits[:, np.arange(len(labels)), networks[0].lengths - 1]
    return RunData(
        workdir=workdir,
        step=network.checkpoint_step,
        selector=selector,
        config=network.config.replace(data_paths),
        num_parameters=count_params(network.params) // len(networks),
        params_sha256=network.params_sha256,
        trained=network.task,
        task=task,
        split=split,
        examples=examples,
        networks=networks,
        scores=score_logits(final, labels, network.config.seed),
        validation=network.validation,
        metrics=logs.read(workdir, Metrics),
        sessions=logs.read(workdir, Session),
    )
