"""Result files: evaluates checkpoints on whole splits, writes and reads the results."""

import dataclasses
import errno
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from rnnmnist.checkpoints.checksums import params_sha256
from rnnmnist.checkpoints.selection import with_step
from rnnmnist.config.tasks import Task
from rnnmnist.data import datasets
from rnnmnist.data.examples import Examples
from rnnmnist.data.views import permutation_sha256
from rnnmnist.errors import RunError, UserError
from rnnmnist.evaluation.formatting import interval, mean_and_std, percent
from rnnmnist.evaluation.metrics import (
    Counts,
    Metrics,
    Scores,
    field,
    members_of,
)
from rnnmnist.evaluation.predictions import evaluate
from rnnmnist.evaluation.restore import RestoredModel, restore_model
from rnnmnist.models.classifier import count_params
from rnnmnist.runtime.distributed import is_process_0
from rnnmnist.runtime.ensemble import split_ensemble
from rnnmnist.runtime.files import append_line, write_json
from rnnmnist.runtime.workdir import now

MAX_PIXELS = 2**20  # of a permuted image

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Result:
    """The scores of a checkpoint on a split: the content of a result file."""

    task: Task  # of the evaluated data
    split: str
    step: int
    seeds: tuple[int, ...]
    permutation: str | None  # of the pixels, for the view `permuted`
    trained_on_sha256: str | None  # of the training data, if they are a user's
    scores: Scores
    num_parameters: int  # of one network
    params_sha256: str  # of all networks
    network_sha256s: tuple[str, ...]  # of each network
    tutorial_128: Scores | None  # on the first 128 test examples

    @property
    def of_other_data(self) -> bool:
        """Whether the evaluated data are not those of the training."""
        return self.task.sha256 != self.trained_on_sha256

    def to_dict(self) -> dict[str, Any]:
        """Returns the content of the result file."""
        task = self.task
        source = {"dataset": task.name, "split": self.split, "step": self.step}
        source["num_parameters"] = self.num_parameters
        seeds = [{"seed": seed} for seed in self.seeds]
        sha256s = [{"params_sha256": sha256} for sha256 in self.network_sha256s]
        members = [source | a | b for a, b in zip(seeds, sha256s, strict=True)]
        content = source | seeds[0] | {"params_sha256": self.params_sha256}
        content |= self.scores.to_dict(members)
        if self.tutorial_128 is not None:
            content["tutorial_128"] = self.tutorial_128.to_dict(seeds)
        if self.permutation is not None:
            content["permutation"] = self.permutation
            sha256 = permutation_sha256(self.permutation, task.steps)
            content["permutation_sha256"] = sha256
        if self.trained_on_sha256 is not None:
            content["trained_on_sha256"] = self.trained_on_sha256
        return content | {"task": task.to_dict()}

    @classmethod
    def from_dict(cls, content: Any) -> "Result":
        """Parses the content of a result file.

        Raises:
            ValueError: if it is no result, or a metric does not follow from the counts.
        """

        def optional(name: str) -> str | None:
            return field(content, name, str) if name in content else None

        members, first_128 = members_of(content), None
        if isinstance(content, dict) and "tutorial_128" in content:
            first_128 = Scores.from_dict(content["tutorial_128"])
        result = cls(
            task=Task.from_dict(field(content, "task", dict)),
            split=field(content, "split", str),
            step=field(content, "step", int),
            seeds=tuple(field(member, "seed", int) for member in members),
            permutation=optional("permutation"),
            trained_on_sha256=optional("trained_on_sha256"),
            scores=Scores.from_dict(content),
            num_parameters=field(content, "num_parameters", int),
            params_sha256=field(content, "params_sha256", str),
            network_sha256s=tuple(
                field(member, "params_sha256", str) for member in members
            ),
            tutorial_128=first_128,
        )
        if result.permutation is not None and result.task.steps > MAX_PIXELS:
            raise ValueError("steps must be the pixels of an image")
        if _rounded(result.to_dict()) != _rounded(content):
            raise ValueError("its metrics do not follow from its counts")
        return result


def _rounded(content: Any) -> Any:
    """Rounds the interval whose last digits depend on the version of scipy."""
    if not isinstance(content, dict):
        return content
    rounded = {key: _rounded(value) for key, value in content.items()}
    ends = rounded.get("accuracy_mean_interval")
    if isinstance(ends, list) and all(type(end) is float for end in ends):
        rounded["accuracy_mean_interval"] = [round(end, 9) for end in ends]
    return rounded


def evaluate_run(
    workdir: Path,
    selector: str,
    split: str,
    data_paths: Mapping[str, str | None],
    mesh: Mesh,
) -> Result:
    """Evaluates a checkpoint, whose own configuration gives model and data.

    The result file is also written.

    Args:
        workdir: of the run, which may still be training.
        selector: `best`, `latest` or the number of a step.
        split: `train`, `validation` or `test`.
        data_paths: overrides of the data's paths in the configuration.
        mesh: on which to evaluate.

    Raises:
        UserError: as `load_split` does.
    """

    def evaluate_step(step: int) -> Result:
        restored = restore_model(workdir, step, mesh)
        task, _, examples = load_split(restored, split, data_paths)
        if split == "test":
            sha256 = params_sha256(restored.params)
            log_test_reading(workdir, step, sha256, "evaluate")
        result = score(restored, step, task, split, examples)
        write_result(workdir, result)
        return result

    return with_step(workdir, selector, evaluate_step)


def load_split(
    restored: RestoredModel, split: str | None, data_paths: Mapping[str, str | None]
) -> tuple[Task, str, Examples]:
    """Loads the data on which a model is evaluated.

    Args:
        restored: the model.
        split: None takes the test split, or validation if there is none.
        data_paths: overrides of the data's paths in the configuration.

    Returns:
        The task of these data, the name of the split, and its examples.

    Raises:
        UserError: if the data have no such split, or differ from those that the model
            was trained on and are not named in `data_paths`.
    """
    config, trained = restored.config.replace(data_paths).data, restored.task
    if config.name != "files" and config.path is not None:
        raise UserError(
            f"data.path: the run is on {config.name}, not on files; remove it"
        )
    task, splits = datasets.load(config, trained=trained)
    if task.sha256 != trained.sha256 and data_paths.get("data.path") is None:
        raise UserError(
            f"data.path: the sequences in {config.path} are not those of the training "
            "(their SHA-256 differs); to evaluate on them, set "
            f"data.path={config.path}"
        )
    if split is None:
        split = "test" if task.examples.test else "validation"
    if not len(splits[split].labels):
        raise UserError(f"split: {task.name} has no {split} part; choose validation")
    return task, split, splits[split]


def score(
    restored: RestoredModel, step: int, task: Task, split: str, examples: Examples
) -> Result:
    """Evaluates a restored checkpoint on a whole split of a task."""
    config, model, params = restored.config, restored.model, restored.params
    networks = split_ensemble(jax.device_get(params))

    def evaluate_all(examples: Examples) -> Scores:
        return evaluate(model, params, restored.put(examples))

    first_128 = None
    if config.tutorial_128 and split == "test":
        first_128 = evaluate_all(examples.first(128))
    permuted = config.data.view == "permuted"
    return Result(
        task=task,
        split=split,
        step=step,
        seeds=tuple(config.seeds),
        permutation=config.data.permutation if permuted else None,
        trained_on_sha256=restored.task.sha256,
        scores=evaluate_all(examples),
        num_parameters=count_params(networks[0]),
        params_sha256=params_sha256(params),
        network_sha256s=tuple(map(params_sha256, networks)),
        tutorial_128=first_128,
    )


def write_result(workdir: Path, result: Result) -> None:
    """Writes the file of a result in a workdir, once for all processes.

    A read-only workdir causes a warning.

    Raises:
        RunError: if the file cannot be written for another reason.
    """
    path = path_of(workdir, result)
    _write(write_json, path, result.to_dict(), "the result")


def log_test_reading(
    workdir: Path, step: int, params_sha256: str, command: str
) -> None:
    """Records in `test_readings.jsonl` that a command reads the test split.

    It is called before the split is read, so that no reading is unrecorded. The trainer
    reads it once, after the checkpoint was selected on validation; the record shows any
    later reading. A read-only workdir causes a warning.

    Raises:
        RunError: if the file cannot be written for another reason.
    """
    line = {
        "time": now(),
        "command": command,
        "step": step,
        "params_sha256": params_sha256,
    }
    path = workdir / "test_readings.jsonl"
    _write(append_line, path, line, "the reading of the test split")


def _write(
    function: Callable[[Path, dict[str, Any]], None],
    path: Path,
    value: dict[str, Any],
    name: str,
) -> None:
    if not is_process_0():
        return
    try:
        function(path, value)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise RunError(f"{name} cannot be written: {error}") from error
        _logger.warning("%s is not recorded: %s", name, error)


def result_path(workdir: Path, split: str, step: int) -> Path:
    """Returns the path of a result on the data of the run."""
    return workdir / "evaluation" / f"{split}-{step}.json"


def path_of(workdir: Path, result: Result) -> Path:
    """Returns the path of a result; on other data, with the start of their SHA-256."""
    path = result_path(workdir, result.split, result.step)
    if not result.of_other_data:
        return path
    return path.with_stem(f"{path.stem}-{str(result.task.sha256)[:8]}")


def read_result(path: Path, params_sha256: str) -> Result | None:
    """Reads a result file if it is valid and of these parameters.

    None means that the split has to be evaluated.
    """
    try:
        result = Result.from_dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, RecursionError):
        return None
    return result if result.params_sha256 == params_sha256 else None


def format_result(result: Result) -> str:
    """Formats the accuracy of a result; of sequences, also the balanced one."""
    text = format_scores(result.scores)
    if result.task.image_shape is None:
        text += f", balanced accuracy {percent(result.scores.balanced_accuracy)}"
    if result.tutorial_128 is not None:
        text += f"; on the first 128 {format_scores(result.tutorial_128)}"
    return text


def format_seeds(result: Result) -> list[str]:
    """Formats the accuracy of each seed of several; empty for one."""
    if len(result.seeds) == 1:
        return []
    networks = zip(result.seeds, result.scores.split(), strict=True)
    return [f"seed {seed}: {format_scores(scores)}" for seed, scores in networks]


def format_scores(scores: Scores) -> str:
    """Formats an accuracy with its counts and its interval: over seeds, if several."""
    if len(scores.correct) == 1:
        return _format_accuracy(scores)
    accuracy = mean_and_std(scores.accuracy, scores.accuracy_std)
    return (
        f"{accuracy} over {len(scores.correct)} seeds ({_list_counts(scores)}; "
        f"95 % interval of the mean {interval(scores.accuracy_mean_interval)})"
    )


def format_validation(metrics: Metrics) -> str:
    """Formats the accuracy of a checkpoint on validation."""
    if len(metrics.correct) == 1:
        return _format_accuracy(metrics)
    return (
        f"{percent(metrics.accuracy)} in the mean of {len(metrics.correct)} seeds "
        f"({_list_counts(metrics)})"
    )


def _format_accuracy(counts: Counts) -> str:
    ends = interval(counts.accuracy_interval)
    return f"{percent(counts.accuracy)} ({_list_counts(counts)}; 95 % interval {ends})"


def _list_counts(counts: Counts) -> str:
    return f"{', '.join(map(str, counts.correct))} of {counts.examples}"
