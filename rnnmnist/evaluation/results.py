"""Result files: evaluates checkpoints on whole splits, writes and reads the results."""

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
from rnnmnist.config.schema import Config
from rnnmnist.data import datasets
from rnnmnist.data.datasets import Examples
from rnnmnist.errors import RunError
from rnnmnist.evaluation.formatting import interval, mean_and_std, percent
from rnnmnist.evaluation.intervals import wilson_interval
from rnnmnist.evaluation.metrics import Result, evaluate, summarize
from rnnmnist.evaluation.predictions import EvaluationSplit
from rnnmnist.evaluation.restore import restore_model
from rnnmnist.models.classifier import Params, count_params, make_model, split_ensemble
from rnnmnist.runtime.distributed import is_process_0
from rnnmnist.runtime.files import append_line, write_json
from rnnmnist.runtime.mesh import replicated
from rnnmnist.runtime.workdir import now

_logger = logging.getLogger(__name__)


def evaluate_run(
    workdir: Path,
    selector: str,
    split: str,
    data_paths: Mapping[str, str | None],
    mesh: Mesh,
) -> dict[str, Any]:
    """Evaluates a checkpoint, whose own configuration gives model and data.

    Args:
        workdir: of the run, which may still be training.
        selector: `best`, `latest` or the number of a step.
        split: `train`, `validation` or `test`.
        data_paths: overrides of the data's paths in the configuration.
        mesh: on which to evaluate.

    Returns:
        The content of the result file, which is also written.
    """

    def evaluate_step(step: int) -> dict[str, Any]:
        config, _, params = restore_model(workdir, step, replicated(mesh))
        config = config.replace(data_paths)
        examples = datasets.load(config.data)[split]
        if split == "test":
            log_test_reading(workdir, step, params_sha256(params), "evaluate")
        result = score(params, step, split, examples, config, mesh)
        write_result(workdir, result)
        return result

    return with_step(workdir, selector, evaluate_step)


def score(
    params: Params,
    step: int,
    split: str,
    examples: Examples,
    config: Config,
    mesh: Mesh,
) -> dict[str, Any]:
    """Evaluates a checkpoint's parameters, replicated over the mesh, on a whole split.

    Returns:
        The content of the result file.
    """
    model = make_model(config.model)
    host_params = jax.device_get(params)
    networks = split_ensemble(host_params)
    source = {"dataset": config.data.name, "split": split, "step": step}
    results = evaluate(model, params, EvaluationSplit.device_put(examples, mesh))
    members = [
        {
            **source,
            "seed": seed,
            **result.to_dict(),
            "num_parameters": count_params(network),
            "params_sha256": params_sha256(network),
        }
        for seed, result, network in zip(config.seeds, results, networks, strict=True)
    ]
    content = {
        **source,
        "seed": config.seed,
        **summarize(members),
        "num_parameters": members[0]["num_parameters"],
        "params_sha256": params_sha256(host_params),
    }
    if config.tutorial_128 and split == "test":
        first = Examples(examples.images[:128], examples.labels[:128])
        results = evaluate(model, params, EvaluationSplit.device_put(first, mesh))
        content["tutorial_128"] = summarize(
            [
                ({"seed": seed} if config.num_seeds > 1 else {}) | result.to_dict()
                for seed, result in zip(config.seeds, results, strict=True)
            ]
        )
    return content


def write_result(workdir: Path, result: dict[str, Any]) -> None:
    """Writes `evaluation/<split>-<step>.json` in a workdir, once for all processes.

    A read-only workdir causes a warning.

    Raises:
        RunError: if the file cannot be written for another reason.
    """
    path = result_path(workdir, result["split"], result["step"])
    _write(write_json, path, result, "the result")


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
    """Returns the path of a result file."""
    return workdir / "evaluation" / f"{split}-{step}.json"


def read_result(path: Path, params_sha256: str) -> dict[str, Any] | None:
    """Reads a result file if it is of these parameters and consistent.

    Returns:
        Its content. None if there is no such file, it is of other parameters, or its
        metrics do not follow from its counts; then the split has to be evaluated.
    """
    try:
        result = json.loads(path.read_bytes())
        valid = result["params_sha256"] == params_sha256 and all(
            map(_is_consistent, (result, result.get("tutorial_128", result)))
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    except ArithmeticError:  # no examples
        return None
    return result if valid else None


def _is_consistent(summary: dict[str, Any]) -> bool:
    members = summary.get("members", [summary])
    recomputed = list(map(_recompute, members))
    expected = summarize(recomputed)
    expected.pop("members", None)
    expected.pop("accuracy_mean_interval", None)  # rounded by the version of scipy
    return all(
        found[key] == value
        for found, fields in zip(
            [summary, *members], [expected, *recomputed], strict=True
        )
        for key, value in fields.items()
    )


def _recompute(member: dict[str, Any]) -> dict[str, Any]:
    """Derives a network's metrics from its confusion matrix and loss."""
    confusion = tuple(tuple(row) for row in member["confusion"])
    result = Result(sum(map(sum, confusion)), 0.0, confusion).to_dict()
    return result | {"loss": member["loss"]}


def format_result(result: dict[str, Any]) -> str:
    """Formats the accuracy of a result file, and that of the tutorial's 128 images."""
    text = _format_summary(result)
    if "tutorial_128" in result:
        text += f"; on the first 128 {_format_summary(result['tutorial_128'])}"
    return text


def format_seeds(result: dict[str, Any]) -> list[str]:
    """Formats the accuracy of each seed of an ensemble; empty for one network."""
    return [
        f"seed {member['seed']}: {_format_summary(member)}"
        for member in result.get("members", [])
    ]


def format_accuracy(correct: int, examples: int) -> str:
    """Formats an accuracy with its counts and its 95 % interval over examples."""
    ends = interval(wilson_interval(correct, examples))
    accuracy = percent(correct / examples)
    return f"{accuracy} ({correct} of {examples}; 95 % interval {ends})"


def _format_summary(summary: dict[str, Any]) -> str:
    if "members" not in summary:
        return format_accuracy(summary["correct"], summary["examples"])
    counts = ", ".join(str(member["correct"]) for member in summary["members"])
    accuracy = mean_and_std(summary["accuracy_mean"], summary["accuracy_std"])
    return (
        f"{accuracy} over {len(summary['members'])} seeds "
        f"({counts} of {summary['examples']}; "
        f"95 % interval of the mean {interval(summary['accuracy_mean_interval'])})"
    )
