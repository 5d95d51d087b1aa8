"""Result files: evaluates checkpoints on whole splits, writes and reads the results."""

import errno
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import msgspec
from jax.sharding import Mesh
from msgspec.structs import asdict

from rnnmnist.checkpoints.checksums import params_sha256
from rnnmnist.checkpoints.selection import with_step
from rnnmnist.config.tasks import Task
from rnnmnist.data import datasets
from rnnmnist.data.examples import Examples
from rnnmnist.data.views import permutation_sha256
from rnnmnist.errors import UserError
from rnnmnist.evaluation.accuracies import percent
from rnnmnist.evaluation.metrics import Scores, format_accuracy
from rnnmnist.evaluation.predictions import predict_logits
from rnnmnist.evaluation.restore import RestoredModel, restore_model
from rnnmnist.models.classifier import count_params
from rnnmnist.runtime.distributed import is_process_0
from rnnmnist.runtime.ensemble import split_ensemble
from rnnmnist.runtime.files import append_line, write_json
from rnnmnist.runtime.workdir import now

_logger = logging.getLogger(__name__)


class NetworkResult(Scores, frozen=True, kw_only=True, omit_defaults=True):
    """The scores of a network of a checkpoint."""

    dataset: str
    split: str
    step: int
    num_parameters: int
    params_sha256: str


class Result(NetworkResult, frozen=True, kw_only=True, omit_defaults=True):
    """The scores of a checkpoint on a split: the content of a result file.

    Of an ensemble, `num_parameters` is of one member, `params_sha256` of all.
    """

    task: Task  # of the evaluated data
    permutation: str | None = None  # of the pixels, for the view `permuted`
    permutation_sha256: str | None = None
    trained_on_sha256: str | None = None  # of the training data, if they are a user's
    tutorial_128: Scores | None = None  # on the first 128 test examples
    members: tuple[NetworkResult, ...] = ()

    @property
    def of_other_data(self) -> bool:
        """Whether the evaluated data are not those of the training."""
        return self.task.sha256 != self.trained_on_sha256


def evaluate_run(
    workdir: Path,
    selector: str,
    split: str,
    data_paths: Mapping[str, str | None],
    mesh: Mesh,
) -> Result:
    """Evaluates a checkpoint of a run on a split, and writes the result file.

    Its own configuration gives the model, and also the data unless `data_paths` has
    other ones. The run may still be training.
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

    Without a name, the split is the test split, or validation if there is none.

    Returns:
        The task of these data, the name of the split, and its examples.
    """
    config = restored.config.replace(data_paths).data
    trained = restored.task
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
        split = task.evaluated_split
    if not len(splits[split].labels):
        raise UserError(f"split: {task.name} has no {split} split; choose validation")
    return task, split, splits[split]


def score(
    restored: RestoredModel, step: int, task: Task, split: str, examples: Examples
) -> Result:
    """Evaluates a restored checkpoint on a whole split of a task."""
    config = restored.config
    params = restored.params
    networks = split_ensemble(jax.device_get(params))
    labels = examples.labels
    logits = predict_logits(restored.model, params, restored.put(examples))
    scores = Scores.from_logits(logits, labels, config.seed)
    common: dict[str, Any] = {
        "dataset": task.name,
        "split": split,
        "step": step,
        "num_parameters": count_params(networks[0]),
    }
    members = [  # none if there is one network
        NetworkResult(**asdict(one) | common, params_sha256=params_sha256(network))
        for one, network in zip(scores.members, networks, strict=False)
    ]
    permutation = config.data.permutation if config.data.view == "permuted" else None
    return Result(
        **asdict(scores) | common | {"members": tuple(members)},
        params_sha256=params_sha256(params),
        task=task,
        permutation=permutation,
        permutation_sha256=(
            permutation_sha256(permutation, task.time_steps) if permutation else None
        ),
        trained_on_sha256=restored.task.sha256,
        tutorial_128=(
            Scores.from_logits(logits[:, :128], labels[:128], config.seed)
            if config.tutorial_128 and split == "test"
            else None
        ),
    )


def write_result(workdir: Path, result: Result) -> None:
    """Writes the file of a result in a workdir, once for all processes.

    A read-only workdir causes a warning.
    """
    path = path_of(workdir, result)
    _write(write_json, path, result, "the result")


def log_test_reading(
    workdir: Path, step: int, params_sha256: str, command: str
) -> None:
    """Records in `test_readings.jsonl` that a command reads the test split.

    It is called before the split is read, so that no reading is unrecorded. The trainer
    reads it once, after the checkpoint was selected on validation; the record shows any
    later reading. A read-only workdir causes a warning.
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
    function: Callable[[Path, Any], None], path: Path, value: Any, name: str
) -> None:
    if not is_process_0():
        return
    try:
        function(path, value)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
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
    """Reads a result file if it is of these parameters.

    None means that the split has to be evaluated.
    """
    try:
        result = msgspec.json.decode(path.read_bytes(), type=Result)
    except (OSError, ValueError, RecursionError):
        return None
    return result if result.params_sha256 == params_sha256 else None


def format_result(result: Result) -> str:
    """Formats the accuracy of a result; of sequences, also the balanced one."""
    text = format_accuracy(result)
    if result.task.image_shape is None:
        text += f", balanced accuracy {percent(result.balanced_accuracy)}"
    if result.tutorial_128 is not None:
        text += f"; on the first 128 {format_accuracy(result.tutorial_128)}"
    return text
