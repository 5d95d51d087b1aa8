"""The log of a run: `metrics.jsonl`, with one JSON object per line."""

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from rnnmnist.config.resolving import RunTrainConfig
from rnnmnist.errors import set_missing_filename
from rnnmnist.runs.metrics import LOG_FIELDS, EnsembleMetrics, select_fields
from rnnmnist.runs.writing import write_atomically

FILE_NAME = "metrics.jsonl"


class StepMetrics(EnsembleMetrics, frozen=True, kw_only=True, omit_defaults=True):
    """Metrics of one step, for a line of `metrics.jsonl` and for callbacks.

    Lines do not contain confusion matrices, because they are large if there are many
    classes.

    Attributes:
        step: the number of completed updates.
        split: `train` or `validation`. For random filters, also `leave_one_out` or, if
            there are groups, `leave_one_group_out`.
        examples_per_second: the total training throughput of all members.
        metrics: further metrics by name, each with one mean per member.
    """

    step: int
    split: str
    examples_per_second: float | None = None
    metrics: dict[str, tuple[float, ...]] | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the content of a line, with a list of `members` for an ensemble."""
        step_fields = ("step", "split", "examples_per_second", "metrics")
        content = select_fields(self, (*step_fields, *LOG_FIELDS))
        if len(self.members) > 1:
            content["members"] = [
                select_fields(member, LOG_FIELDS) for member in self.members
            ]
        return content


def describe_completion(
    lines: Iterable[StepMetrics], step: int, config: RunTrainConfig
) -> str | None:
    """Returns why a run is complete after `step` steps; None if it is not complete.

    A run is complete after `num_steps` steps. If early stopping is enabled, a run is
    also complete if the early-stopping metric did not improve in the last `patience`
    validations.
    """
    if step >= config.num_steps:
        return f"complete at step {step:,}"
    if config.patience is None:
        return None
    # A killed run can have logged validations after its last checkpoint.
    metrics = early_stopping_metrics(lines, step, config)
    best_step = max(metrics, key=metrics.__getitem__, default=0)
    if sum(other_step > best_step for other_step in metrics) < config.patience:
        return None
    return (
        f"stopped at step {step:,} of {config.num_steps:,}: no improvement since step "
        f"{best_step:,} (train.patience={config.patience})"
    )


def early_stopping_metrics(
    lines: Iterable[StepMetrics], last_step: int, config: RunTrainConfig
) -> dict[int, float]:
    """Returns the early-stopping metric of each validation up to `last_step`, by step.

    The metric is the balanced accuracy if there are class weights, and otherwise the
    negative loss.
    """
    validations = [
        line for line in lines if line.split == "validation" and line.step <= last_step
    ]
    if config.has_class_weights:
        return {line.step: line.balanced_accuracy or 0.0 for line in validations}
    return {line.step: -line.loss for line in validations}


def append(workdir: Path, metrics: StepMetrics) -> None:
    """Appends a line to the log."""
    path = workdir / FILE_NAME
    with set_missing_filename(path), path.open("a") as file:
        file.write(format_line(metrics))


def write(workdir: Path, lines: Iterable[StepMetrics]) -> None:
    """Replaces the log."""
    text = "".join(format_line(metrics) for metrics in lines)
    write_atomically(workdir / FILE_NAME, text.encode())


def format_line(metrics: StepMetrics) -> str:
    """Formats a line of the log as JSON."""
    return json.dumps(metrics.to_json()) + "\n"


def read(workdir: Path) -> list[StepMetrics]:
    """Returns the complete lines of the log; an empty list if there is no log."""
    path = workdir / FILE_NAME
    lines: list[StepMetrics] = []
    if not path.exists():
        return lines
    for line in path.read_text(errors="replace").splitlines():
        # A killed run can leave an incomplete line, and users can edit the file.
        with contextlib.suppress(ValueError, RecursionError):
            lines.append(parse(msgspec.convert(json.loads(line), dict[str, Any])))
    return lines


def parse(content: dict[str, Any]) -> StepMetrics:
    """Restores metrics from the content that `StepMetrics.to_json` returns."""
    members = content.get("members", [content])
    return msgspec.convert(content | {"members": members}, StepMetrics)
