"""Whole-split counts, and what follows from them.

The trainer and the evaluation command both come here: there is no other way to
an accuracy. Every image of a split is counted exactly once.
"""

import dataclasses
import errno
import json
import logging
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rnnmnist.checkpoints.checksums import params_sha256
from rnnmnist.checkpoints.selection import with_step
from rnnmnist.config.schema import Config
from rnnmnist.data import datasets
from rnnmnist.data.datasets import Examples
from rnnmnist.errors import RunError
from rnnmnist.evaluation.intervals import t_interval, wilson_interval
from rnnmnist.evaluation.restore import restore
from rnnmnist.models.classifier import (
    CLASSES,
    Params,
    RowReader,
    count_params,
    make_model,
    unstack,
)
from rnnmnist.runtime.distributed import is_first
from rnnmnist.runtime.mesh import BATCH, put, replicated
from rnnmnist.runtime.workdir import append_line, now, write_json
from rnnmnist.training.step import count_batches

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Result:
    """How a network did on a split: counts, and what is divided from them."""

    examples: int
    total_loss: float  # summed cross-entropy, in nats
    confusion: tuple[tuple[int, ...], ...]  # [true class][answer]

    @property
    def loss(self) -> float:
        """The mean cross-entropy, in nats."""
        return self.total_loss / self.examples

    @property
    def correct(self) -> int:
        """Images whose answer is right."""
        return sum(row[label] for label, row in enumerate(self.confusion))

    @property
    def accuracy(self) -> float:
        """The share of right answers, from 0 to 1."""
        return self.correct / self.examples

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """The accuracy's 95 % Wilson interval over images."""
        return wilson_interval(self.correct, self.examples)

    def to_dict(self) -> dict[str, Any]:
        """The fields as the result file has them."""
        return {
            "examples": self.examples,
            "correct": self.correct,
            "accuracy": self.accuracy,
            "accuracy_interval": list(self.accuracy_interval),
            "loss": self.loss,
            "confusion": [list(row) for row in self.confusion],
        }


@dataclasses.dataclass(frozen=True)
class EvaluationSplit:
    """A split on the devices, padded and cut into batches of one size."""

    images: jax.Array  # uint8 [batches, batch, rows, columns]
    labels: jax.Array  # int32 [batches, batch], -1 where padded
    examples: int
    mesh: Mesh

    @classmethod
    def put(
        cls, examples: Examples, mesh: Mesh, batch_per_device: int | None = None
    ) -> "EvaluationSplit":
        """Lays a split out over the devices of a mesh.

        Args:
            examples: all images of the split.
            mesh: over whose `batch` each batch is shared out.
            batch_per_device: images that a device scores at a time (default: 64 on
                a CPU, which suits a core's cache, else 1024); it changes the memory
                and the speed, no count, and the loss by rounding only.
        """
        if batch_per_device is None:
            on_cpu = mesh.devices.flat[0].platform == "cpu"
            batch_per_device = 64 if on_cpu else 1024
        count, shares = len(examples.labels), mesh.shape[BATCH]
        batch = min(batch_per_device, -(-count // shares)) * shares
        padding = -count % batch
        images = np.pad(examples.images, ((0, padding), (0, 0), (0, 0)))
        labels = np.pad(
            examples.labels.astype(np.int32), (0, padding), constant_values=-1
        )
        sharding = NamedSharding(mesh, P(None, BATCH))
        return cls(
            put(images.reshape(-1, batch, *images.shape[1:]), sharding),
            put(labels.reshape(-1, batch), sharding),
            count,
            mesh,
        )


def evaluate(
    model: RowReader, params: Params, split: EvaluationSplit
) -> tuple[Result, ...]:
    """Scores every image of a split once, by each network.

    Args:
        model: of the networks.
        params: of one network, or of a stack of them.
        split: the images.

    Returns:
        A result for each member of the stack, in its order; one for one network.
    """
    counts = jax.device_get(
        count_batches(params, split.images, split.labels, model=model, mesh=split.mesh)
    )
    losses = counts.loss.reshape(-1)
    confusions = counts.confusion.reshape(-1, CLASSES, CLASSES)
    results = []
    for loss, counted in zip(losses, confusions, strict=True):
        confusion = tuple(tuple(int(count) for count in row) for row in counted)
        total = sum(map(sum, confusion))
        if total != split.examples:
            raise RuntimeError(f"counted {total} of {split.examples} images")
        results.append(Result(total, float(loss), confusion))
    return tuple(results)


def summary(members: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The fields of a result file: one network's own, or those of a stack.

    Args:
        members: the fields of each network, of which there are those of
            `Result.to_dict`, on the same images.

    Returns:
        For a stack: sums of the counts, means of accuracy and loss, and how the
        accuracy varies over seeds. Its `accuracy_interval` is over images, for a
        network that is right as often as the mean says.
    """
    if len(members) == 1:
        return dict(members[0])
    accuracies = [member["accuracy"] for member in members]
    examples = members[0]["examples"]
    correct = sum(member["correct"] for member in members)
    mean, std = correct / (len(members) * examples), statistics.stdev(accuracies)
    confusions = [member["confusion"] for member in members]
    return {
        "examples": examples,
        "correct": correct,
        "accuracy": mean,
        "accuracy_interval": list(wilson_interval(mean * examples, examples)),
        "accuracy_mean": mean,
        "accuracy_std": std,
        "accuracy_mean_interval": list(t_interval(mean, std, len(members))),
        "loss": statistics.mean(member["loss"] for member in members),
        "confusion": np.sum(confusions, axis=0).tolist(),
        "members": list(members),
    }


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
            log_reading(workdir, step, params_sha256(params), "evaluate")
        document = score(params, step, split, examples, config, mesh)
        keep_result(workdir, document)
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
    networks = unstack(whole)
    what = {"dataset": config.data.name, "split": split, "step": step}
    results = evaluate(model, params, EvaluationSplit.put(examples, mesh))
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
        results = evaluate(model, params, EvaluationSplit.put(first, mesh))
        document["tutorial_128"] = summary(
            [
                ({"seed": seed} if config.num_seeds > 1 else {}) | result.to_dict()
                for seed, result in zip(config.seeds, results, strict=True)
            ]
        )
    return document


def keep_result(workdir: Path, document: dict[str, Any]) -> None:
    """Writes `evaluation/<split>-<step>.json` in a workdir, once for all processes.

    Where that cannot be written (a model in a read-only place), a warning says so.

    Raises:
        RunError: when the disk is full.
    """
    path = result_path(workdir, document["split"], document["step"])
    _write(lambda: write_json(path, document), "the result")


def log_reading(workdir: Path, step: int, params_sha256: str, command: str) -> None:
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


def kept_result(path: Path, params_sha256: str) -> dict[str, Any] | None:
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


def _counted(document: dict[str, Any]) -> str:
    if "members" not in document:
        low, high = document["accuracy_interval"]
        counts = f"{document['correct']} of {document['examples']}"
        return (
            f"{100 * document['accuracy']:.2f} % ({counts}; 95 % interval "
            f"{100 * low:.2f} to {100 * high:.2f})"
        )
    low, high = document["accuracy_mean_interval"]
    counts = ", ".join(str(member["correct"]) for member in document["members"])
    mean, std = 100 * document["accuracy_mean"], 100 * document["accuracy_std"]
    return (
        f"{mean:.2f} ± {std:.2f} % over {len(document['members'])} seeds "
        f"({counts} of {document['examples']}; "
        f"95 % interval of the mean {100 * low:.2f} to {100 * high:.2f})"
    )
