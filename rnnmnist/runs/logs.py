"""The logs of a run, of one JSON object per line: metrics and sessions."""

import contextlib
import datetime
import json
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import msgspec

from rnnmnist.config.schema import TrainConfig
from rnnmnist.config.tasks import MIN_VALIDATION_EXAMPLES
from rnnmnist.errors import names_path
from rnnmnist.runs.writing import sync, write_atomically


class NetworkMetrics(msgspec.Struct, frozen=True):
    """The metrics of a member of an ensemble at a step."""

    seed: int
    loss: float  # mean cross-entropy in nats
    accuracy: float
    correct: int


class Metrics(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The metrics at a step: a line of `metrics.jsonl`.

    Of an ensemble, loss and accuracy are means, and `correct` is a sum.
    """

    FILE_NAME: ClassVar[str] = "metrics.jsonl"
    step: int
    split: str
    loss: float
    accuracy: float
    correct: int
    examples: int  # for each network
    examples_per_second: float | None = None  # in training, by all members together
    # On unbalanced classes, and with class weights, with which it selects the step.
    balanced_accuracy: float | None = None
    selects: bool = True
    members: tuple[NetworkMetrics, ...] = ()  # empty for a single network

    @classmethod
    def create(
        cls,
        step: int,
        split: str,
        examples: int,
        seeds: Sequence[int],
        losses: Sequence[float],
        correct: Sequence[int],
        **others: Any,
    ) -> "Metrics":
        """Returns the metrics of networks with these seeds, losses and counts."""
        networks = tuple(
            NetworkMetrics(seed, loss, count / examples, count)
            for seed, loss, count in zip(seeds, losses, correct, strict=True)
        )
        return cls(
            step=step,
            split=split,
            loss=statistics.fmean(losses),
            # One division of integers, so that equal counts tie.
            accuracy=sum(correct) / (len(networks) * examples),
            correct=sum(correct),
            examples=examples,
            members=networks if len(networks) > 1 else (),
            **others,
        )

    @property
    def networks(self) -> "Sequence[Metrics | NetworkMetrics]":
        """The metrics of each network."""
        return self.members or (self,)


def best_step(validations: Mapping[int, Metrics | None]) -> int:
    """Returns the step with the highest validation accuracy, the earlier one on a tie.

    With class weights, balanced accuracies are compared. The step is the last one if
    there are too few validation examples to compare, and 0 if there are no steps.
    """
    validated = {step: metrics for step, metrics in validations.items() if metrics}

    def rank(step: int) -> tuple[float, int]:
        metrics = validations[step]
        if metrics is None or metrics.examples < MIN_VALIDATION_EXAMPLES:
            return 0.0, step
        balanced = metrics.balanced_accuracy if metrics.selects else None
        return metrics.accuracy if balanced is None else balanced, -step

    return max(validated or validations, key=rank, default=0)


def completion(workdir: Path, step: int, config: TrainConfig) -> str | None:
    """Returns why a run that has finished `step` steps is complete, None if it is not.

    It is at its last step or beyond, or as many validations as its patience in a row
    have had no lower loss, which is a mean over seeds, than the lowest one before.
    """
    last = config.total_steps
    if step >= last:
        asked = f" (asked for {last:,})" if step > last else ""
        return f"complete at step {step:,}{asked}"
    if config.patience is None:
        return None
    lowest, later = lowest_loss(workdir, step)
    if later < config.patience:
        return None
    since = f"no lower validation loss since step {lowest:,}"
    return f"stopped at step {step:,} of {last:,}: {since}"


def lowest_loss(workdir: Path, step: int) -> tuple[int, int]:
    """Returns the step of the lowest validation loss, and how many validations follow.

    They are those up to `step`; later ones of a killed run are not saved.
    """
    lines = [line for line in read(workdir, Metrics) if line.split == "validation"]
    losses = {line.step: line.loss for line in lines if line.step <= step}
    lowest = min(losses, key=losses.__getitem__, default=0)
    return lowest, sum(validated > lowest for validated in losses)


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """A training process that has ended: a line of `sessions.jsonl`."""

    FILE_NAME: ClassVar[str] = "sessions.jsonl"
    time: str  # when it started, ISO 8601
    command: str
    hardware: str
    devices: str
    processes: int
    versions: dict[str, str]
    from_step: int
    step: int  # the last checkpoint at the end
    completion: str | None = None  # why the run is complete, if it is
    seconds: dict[str, float]  # by phase, and `total`


Record = TypeVar("Record", Metrics, Session)


def append(workdir: Path, record: Metrics | Session) -> None:
    """Appends a record to its log, in which an incomplete last line is ended first."""
    path = workdir / record.FILE_NAME
    text = json.dumps(msgspec.to_builtins(record)) + "\n"
    with names_path(path), path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            text = text if file.read() == b"\n" else f"\n{text}"
        file.write(text.encode())
    if not isinstance(record, Metrics):  # a fast run writes many a second
        sync(path, workdir)


def read(workdir: Path, kind: type[Record]) -> list[Record]:
    """Returns the complete records of a log, which need not exist."""
    return [record for _, record in _lines(workdir, kind)]


def remove_metrics_after(workdir: Path, step: int) -> None:
    """Removes the metrics of later steps, and incomplete lines.

    A killed run wrote them after its last checkpoint, and writes them again.
    """
    path = workdir / Metrics.FILE_NAME
    kept = [line for line, record in _lines(workdir, Metrics) if record.step <= step]
    content = "".join(f"{line}\n" for line in kept).encode()
    if path.exists() and path.read_bytes() != content:
        write_atomically(path, content)


def now() -> str:
    """Returns the time in ISO 8601, in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _lines(workdir: Path, kind: type[Record]) -> Iterator[tuple[str, Record]]:
    path = workdir / kind.FILE_NAME
    if not path.exists():
        return
    for line in path.read_text(errors="replace").splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            yield line, msgspec.convert(json.loads(line), kind)
