"""Whole-split counts, and what follows from them.

The trainer and the evaluation command both come here: there is no other way to
an accuracy. Every image of a split is counted exactly once.
"""

import dataclasses
import datetime
import errno
import json
import logging
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rnnmnist import data
from rnnmnist.checkpoint import read_config, read_params
from rnnmnist.config import Config
from rnnmnist.data import Examples
from rnnmnist.digests import params_sha256
from rnnmnist.errors import RunError
from rnnmnist.mesh import AXIS, put, replicated
from rnnmnist.model import Params, RowReader, abstract_params, count_params, make_model
from rnnmnist.processes import is_first
from rnnmnist.step import count_batches
from rnnmnist.steps import with_step
from rnnmnist.workdir import write_json

BATCH_PER_DEVICE = 250
_logger = logging.getLogger(__name__)

Z_95 = 1.959963984540054  # the normal distribution's 97.5 % point


@dataclasses.dataclass(frozen=True)
class Result:
    """How a network did on a split: counts, and what is divided from them."""

    examples: int
    loss: float  # mean cross-entropy, in nats
    confusion: tuple[tuple[int, ...], ...]  # [true class][answer]

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
        cls, examples: Examples, mesh: Mesh, batch_per_device: int = BATCH_PER_DEVICE
    ) -> "EvaluationSplit":
        """Lays a split out over the devices of a mesh.

        Args:
            examples: all images of the split.
            mesh: of one axis.
            batch_per_device: images that a device scores at a time; it changes
                the memory and the speed, no count, and the loss by rounding only.
        """
        count = len(examples.labels)
        batch = min(batch_per_device, -(-count // mesh.size)) * mesh.size
        padding = -count % batch
        images = np.pad(examples.images, ((0, padding), (0, 0), (0, 0)))
        labels = np.pad(
            examples.labels.astype(np.int32), (0, padding), constant_values=-1
        )
        sharding = NamedSharding(mesh, P(None, AXIS))
        return cls(
            put(images.reshape(-1, batch, *images.shape[1:]), sharding),
            put(labels.reshape(-1, batch), sharding),
            count,
            mesh,
        )


def evaluate(model: RowReader, params: Params, split: EvaluationSplit) -> Result:
    """Scores every image of a split once."""
    counts = jax.device_get(
        count_batches(params, split.images, split.labels, model=model, mesh=split.mesh)
    )
    confusion = tuple(tuple(int(count) for count in row) for row in counts.confusion)
    total = sum(map(sum, confusion))
    if total != split.examples:
        raise RuntimeError(f"counted {total} of {split.examples} images")
    return Result(total, float(counts.loss) / total, confusion)


def wilson_interval(correct: int, examples: int) -> tuple[float, float]:
    """The 95 % interval of a share.

    Returns:
        Its ends, from 0 to 1.

    References:
        Wilson, "Probable inference, the law of succession, and statistical
        inference", JASA 22, 1927.
    """
    share, z2 = correct / examples, Z_95**2
    middle = share + z2 / (2 * examples)
    half = Z_95 * math.sqrt(share * (1 - share) / examples + z2 / (4 * examples**2))
    scale = 1 + z2 / examples
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def evaluate_run(
    workdir: Path, wanted: str, split: str, places: dict[str, Any], mesh: Mesh
) -> dict[str, Any]:
    """Scores the checkpoint that is meant; model and data follow from it alone.

    Args:
        workdir: of the run, whose trainer may be running.
        wanted: `best`, `latest` or a step's number.
        split: `train`, `validation` or `test`.
        places: settings of `data` that are others here than the trainer's.
        mesh: of one axis.

    Returns:
        What the result file holds.
    """

    def evaluate_step(step: int) -> dict[str, Any]:
        config = read_config(workdir, step).replace(places)
        examples = data.load(config.data)[split]
        like = abstract_params(make_model(config.model), replicated(mesh))
        params = read_params(workdir, step, like)
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
        mesh: of one axis.

    Returns:
        What the result file holds.
    """
    model = make_model(config.model)
    result = evaluate(model, params, EvaluationSplit.put(examples, mesh))
    document = {
        "dataset": config.data.name,
        "split": split,
        "step": step,
        "seed": config.seed,
        **result.to_dict(),
        "num_parameters": count_params(params),
        "params_sha256": params_sha256(params),
    }
    if config.tutorial_128 and split == "test":
        first = Examples(examples.images[:128], examples.labels[:128])
        result = evaluate(model, params, EvaluationSplit.put(first, mesh))
        document["tutorial_128"] = result.to_dict()
    return document


def keep_result(workdir: Path, document: dict[str, Any]) -> None:
    """Writes `evaluation/<split>-<step>.json` in a workdir, once for all processes.

    Where that cannot be written (a model in a read-only place), a warning says so.

    Raises:
        RunError: when the disk is full.
    """
    if not is_first():
        return
    try:
        write_json(result_path(workdir, document["split"], document["step"]), document)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise RunError(f"the result cannot be written: {error}") from error
        _logger.warning("the result is not kept: %s", error)


def log_reading(workdir: Path, step: int, params_sha256: str, command: str) -> None:
    """Appends to `evaluation/test-readings.jsonl` that the test split was read.

    Where that cannot be written (a model in a read-only place), a warning says so.
    """
    line = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command,
        "step": step,
        "params_sha256": params_sha256,
    }
    path = workdir / "evaluation" / "test-readings.jsonl"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        _logger.warning("the reading of the test split is not logged: %s", error)


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
            confusion = tuple(tuple(row) for row in part["confusion"])
            result = Result(sum(map(sum, confusion)), part["loss"], confusion)
            if any(part[key] != value for key, value in result.to_dict().items()):
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


def describe(document: dict[str, Any]) -> str:
    """A result file's counts in one line, with the tutorial's 128 where they are."""
    text = _counted(document)
    if "tutorial_128" in document:
        text += f"; of the first 128 alone {_counted(document['tutorial_128'])}"
    return text


def _counted(document: dict[str, Any]) -> str:
    low, high = document["accuracy_interval"]
    return (
        f"{100 * document['accuracy']:.2f} % "
        f"({document['correct']} of {document['examples']}; 95 % interval "
        f"{100 * low:.2f} to {100 * high:.2f})"
    )
