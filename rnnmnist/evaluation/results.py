"""Result files: a checkpoint scored on a whole split, written and read again."""

import errno
import json
import logging
from collections.abc import Callable
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
from rnnmnist.evaluation.formatting import interval, percent
from rnnmnist.evaluation.intervals import wilson_interval
from rnnmnist.evaluation.metrics import Result, evaluate, summary
from rnnmnist.evaluation.predictions import EvaluationSplit
from rnnmnist.evaluation.restore import restore
from rnnmnist.models.classifier import Params, count_params, make_model, split_ensemble
from rnnmnist.runtime.distributed import is_first
from rnnmnist.runtime.files import append_line, write_json
from rnnmnist.runtime.mesh import replicated
from rnnmnist.runtime.workdir import now

_logger = logging.getLogger(__name__)


def evaluate_run(
    workdir: Path, wanted: str, split: str, places: dict[str, Any], mesh: Mesh
) -> dict[str, Any]:
    """Scores the checkpoint that is meant; model and data follow from it alone.

    Args:
        workdir: of the run, whose trainer may be running.
        wanted: `best`, `latest` or a step's number.
        split: `train`, `validation` or `test`.
        places: settings of `data` that are others here than the trainer's.
        mesh: to score it on.

    Returns:
        What the result file holds.
    """

    def evaluate_step(step: int) -> dict[str, Any]:
        config, _, params = restore(workdir, step, replicated(mesh))
        config = config.replace(places)
        examples = datasets.load(config.data)[split]
        if split == "test":
            log_test_reading(workdir, step, params_sha256(params), "evaluate")
        document = score(params, step, split, examples, config, mesh)
        write_result(workdir, document)
        return document

    return with_step(workdir, wanted, evaluate_step)


def score(
    params: Params,
    step: int,
    split: str,
    examples: Examples,
    config: Config,
    mesh: Mesh,
) -> dict[str, Any]:
    """Scores a checkpoint's parameters on a whole split.

    Args:
        params: replicated over the mesh.
        step: of the checkpoint.
        split: `train`, `validation` or `test`.
        examples: all of the split.
        config: that the checkpoint carries.
        mesh: to score it on.

    Returns:
        What the result file holds.
    """
    model = make_model(config.model)
    whole = jax.device_get(params)
    networks = split_ensemble(whole)
    what = {"dataset": config.data.name, "split": split, "step": step}
    results = evaluate(model, params, EvaluationSplit.device_put(examples, mesh))
    members = [
        {
            **what,
            "seed": seed,
            **result.to_dict(),
            "num_parameters": count_params(network),
            "params_sha256": params_sha256(network),
        }
        for seed, result, network in zip(config.seeds, results, networks, strict=True)
    ]
    document = {
        **what,
        "seed": config.seed,
        **summary(members),
        "num_parameters": members[0]["num_parameters"],
        "params_sha256": params_sha256(whole),
    }
    if config.tutorial_128 and split == "test":
        first = Examples(examples.images[:128], examples.labels[:128])
        results = evaluate(model, params, EvaluationSplit.device_put(first, mesh))
        document["tutorial_128"] = summary(
            [
                ({"seed": seed} if config.num_seeds > 1 else {}) | result.to_dict()
                for seed, result in zip(config.seeds, results, strict=True)
            ]
        )
    return document


def write_result(workdir: Path, document: dict[str, Any]) -> None:
    """Writes `evaluation/<split>-<step>.json` in a workdir, once for all processes.

    Where that cannot be written (a model in a read-only place), a warning says so.

    Raises:
        RunError: when the disk is full.
    """
    path = result_path(workdir, document["split"], document["step"])
    _write(lambda: write_json(path, document), "the result")


def log_test_reading(
    workdir: Path, step: int, params_sha256: str, command: str
) -> None:
    """Says in a workdir that its test split will be read, by which command.

    It is called before the split is read, so that no reading is without its line.
    The trainer reads it once, after the checkpoint was chosen on validation; whoever
    chooses anything by a later reading can be seen to have done so. Where nothing
    can be written, a warning says so.

    Raises:
        RunError: when the disk is full.
    """
    line = {
        "time": now(),
        "command": command,
        "step": step,
        "params_sha256": params_sha256,
    }
    path = workdir / "test_readings.jsonl"
    _write(lambda: append_line(path, line), "the reading of the test split")


def _write(write: Callable[[], None], what: str) -> None:
    if not is_first():
        return
    try:
        write()
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise RunError(f"{what} cannot be written: {error}") from error
        _logger.warning("%s is not kept: %s", what, error)


def result_path(workdir: Path, split: str, step: int) -> Path:
    """Where an evaluation's result lies."""
    return workdir / "evaluation" / f"{split}-{step}.json"


def read_result(path: Path, params_sha256: str) -> dict[str, Any] | None:
    """A result file's content, if it is of these parameters and adds up.

    Returns:
        None where there is no file, or one of another network, or one whose
        accuracy does not follow from its counts: then the split is to be scored.
    """
    try:
        document = json.loads(path.read_bytes())
        if document["params_sha256"] != params_sha256:
            return None
        for part in (document, document.get("tutorial_128", document)):
            members = part.get("members", [part])
            expected = summary([_recounted(member) for member in members])
            expected.pop("members", None)
            expected.pop("accuracy_mean_interval", None)  # in another library's bits
            if any(part[key] != value for key, value in expected.items()):
                return None
            for member in part.get("members", []):
                if any(member[k] != v for k, v in _recounted(member).items()):
                    return None
        return document
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        ArithmeticError,
    ):
        return None


def _recounted(member: dict[str, Any]) -> dict[str, Any]:
    """What follows from a network's confusion matrix and loss."""
    confusion = tuple(tuple(row) for row in member["confusion"])
    result = Result(sum(map(sum, confusion)), 0.0, confusion).to_dict()
    return result | {"loss": member["loss"]}


def describe(document: dict[str, Any]) -> str:
    """A result file's counts in one line, with the tutorial's 128 where they are."""
    text = _counted(document)
    if "tutorial_128" in document:
        text += f"; of the first 128 alone {_counted(document['tutorial_128'])}"
    return text


def describe_members(document: dict[str, Any]) -> list[str]:
    """A line for each network of a stack; none for a single one."""
    return [
        f"seed {member['seed']}: {_counted(member)}"
        for member in document.get("members", [])
    ]


def describe_counts(correct: int, examples: int) -> str:
    """An accuracy with its counts and its 95 % interval over examples."""
    ends = interval(wilson_interval(correct, examples))
    accuracy = percent(correct / examples)
    return f"{accuracy} ({correct} of {examples}; 95 % interval {ends})"


def _counted(document: dict[str, Any]) -> str:
    if "members" not in document:
        return describe_counts(document["correct"], document["examples"])
    counts = ", ".join(str(member["correct"]) for member in document["members"])
    mean, std = 100 * document["accuracy_mean"], 100 * document["accuracy_std"]
    return (
        f"{mean:.2f} ± {std:.2f} % over {len(document['members'])} seeds "
        f"({counts} of {document['examples']}; "
        f"95 % interval of the mean {interval(document['accuracy_mean_interval'])})"
    )
