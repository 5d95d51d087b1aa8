"""The log of a run: `metrics.jsonl`, one JSON object per line."""

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from rnnmnist.config.resolving import RunTrainConfig
from rnnmnist.errors import set_missing_filename
from rnnmnist.runs.metrics import LOG_FIELDS, EnsembleMetrics, select_fields
from rnnmnist.runs.writing import write_atomically

FILE_NAME = "metrics.jsonl"


class StepMetrics(EnsembleMetrics, frozen=True, kw_only=True, omit_defaults=True):
    """Metrics of one step: a line of `metrics.jsonl`, and the argument of a callback.

    Lines do not contain confusion matrices, which are large with many classes.

    Attributes:
        step: the number of completed updates.
        split: `train` or `validation`. For random filters, also `leave_one_out`, or
            `leave_one_group_out` with groups.
        examples_per_second: the training throughput of all members together.
        metrics: the means of all other metrics by name, with one number per member.
    """

    step: int
    split: str
    examples_per_second: float | None = None
    metrics: dict[str, tuple[float, ...]] | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the content of a line; an ensemble adds a list of `members`."""
        of_step = ("step", "split", "groups", "examples_per_second", "metrics")
        content = select_fields(self, (*of_step, *LOG_FIELDS))
        if len(self.members) > 1:
            content["members"] = [
                select_fields(member, LOG_FIELDS) for member in self.members
            ]
        return content


def describe_completion(
    lines: Iterable[StepMetrics], step: int, config: RunTrainConfig
) -> str | None:
    """Returns why a run is complete after `step` steps; None if it is not complete.

    A run is complete at its last step. With early stopping, it is also complete after
    `patience` consecutive validations without improvement of the members' mean metric.
    """
    if step >= config.num_steps:
        return f"complete at step {step:,}"
    if config.patience is None:
        return None
    # A killed run can have logged validations after its last checkpoint.
    ranks = rank_validations(lines, step, config)
    best = max(ranks, key=ranks.__getitem__, default=0)
    if sum(validated > best for validated in ranks) < config.patience:
        return None
    better = "lower validation loss"
    if config.has_class_weights:
        better = "higher balanced validation accuracy"
    return (
        f"stopped at step {step:,} of {config.num_steps:,}: no {better} since step "
        f"{best:,}"
    )


def rank_validations(
    lines: Iterable[StepMetrics], last: int, config: RunTrainConfig
) -> dict[int, float]:
    """Returns the early-stopping metric of each validation up to `last`, by step.

    The metric is balanced accuracy with class weights, otherwise the negative loss.
    """
    validations = [
        line for line in lines if line.split == "validation" and line.step <= last
    ]
    if config.has_class_weights:
        return {line.step: line.balanced_accuracy or 0.0 for line in validations}
    return {line.step: -line.loss for line in validations}


def append(workdir: Path, metrics: StepMetrics) -> None:
    """Appends a line to the log."""
    path = workdir / FILE_NAME
    with set_missing_filename(path), path.open("a") as file:
        file.write(json.dumps(metrics.to_json()) + "\n")


def read(workdir: Path) -> list[StepMetrics]:
    """Returns the complete lines of the log; an empty list without a log."""
    return [metrics for _, metrics in _complete_lines(workdir)]


def remove_metrics_after(workdir: Path, step: int) -> None:
    """Removes the metrics of steps after `step`, and incomplete lines.

    A killed run logged them after its last checkpoint. The resumed run logs them again.
    """
    kept = [
        f"{line}\n"
        for line, metrics in _complete_lines(workdir)
        if metrics.step <= step
    ]
    write_atomically(workdir / FILE_NAME, "".join(kept).encode())


def _complete_lines(workdir: Path) -> Iterator[tuple[str, StepMetrics]]:

    path = workdir / FILE_NAME
    if not path.exists():
        return
    for line in path.read_text(errors="replace").splitlines():
        # A killed run can leave an incomplete line, and a user can edit the file.
        with contextlib.suppress(ValueError, RecursionError):
            yield line, parse(msgspec.convert(json.loads(line), dict[str, Any]))


def parse(content: dict[str, Any]) -> StepMetrics:
    """Restores metrics from the content that `StepMetrics.to_json` returns."""
    members = content.get("members", [content])
    return msgspec.convert(content | {"members": members}, StepMetrics)
