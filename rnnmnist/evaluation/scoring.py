"""Restores trained networks, and scores them on whole splits."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import msgspec
from jax.sharding import Mesh
from msgspec.structs import asdict

from rnnmnist.config.platforms import Execution, execution_of
from rnnmnist.config.schema import Config
from rnnmnist.config.tasks import Task
from rnnmnist.data import datasets
from rnnmnist.data.examples import Dataset, Examples, Inputs, Normalization
from rnnmnist.data.views import View, permutation_sha256
from rnnmnist.errors import UserError
from rnnmnist.evaluation.metrics import format_accuracy, percent, score_logits
from rnnmnist.evaluation.predictions import EvaluationSplit, predict_logits
from rnnmnist.models.classifier import (
    Params,
    SequenceClassifier,
    abstract_params,
    count_params,
    make_model,
)
from rnnmnist.runs.checkpoints import find_step, read_header, read_params, with_step
from rnnmnist.runs.checksums import params_sha256
from rnnmnist.runs.results import (
    NetworkResult,
    Result,
    log_test_reading,
    read_result,
    result_path,
    write_result,
)
from rnnmnist.runtime.distributed import broadcast
from rnnmnist.runtime.ensemble import abstract_ensemble, put_ensemble, split_ensemble
from rnnmnist.runtime.mesh import platform_of, replicated


class RestoredModel(NamedTuple):
    """The trained networks of a run."""

    config: Config
    task: Task
    execution: Execution  # on the mesh
    mesh: Mesh  # for which they were restored
    model: SequenceClassifier
    params: Params  # with the ensemble axis, replicated over the mesh

    @property
    def view(self) -> View | None:
        """How the network reads images; None if it reads sequences."""
        return View.of(self.config.data, self.task)

    @property
    def normalization(self) -> Normalization:
        """How sequences are converted to inputs."""
        return Normalization.create(self.task, self.config.data.missing)

    def put(self, inputs: Inputs) -> EvaluationSplit:
        """Copies inputs to the devices of the mesh."""
        return EvaluationSplit.device_put(inputs, self.view, self.mesh, self.execution)


def restore_model(workdir: Path, step: int, mesh: Mesh) -> RestoredModel:
    """Restores the model that a checkpoint's own configuration and task describe.

    Raises:
        DamagedError: if the checkpoint differs from what was saved.
    """
    header = read_header(workdir, step)
    config = header.config
    task = header.task
    execution = execution_of(config, platform_of(mesh))
    if not config.model.is_linear:  # training's blocks do not divide other lengths
        execution = execution._replace(remat_steps=None)
    model = make_model(config.model, task, execution)
    like = abstract_ensemble(abstract_params(model), config.num_seeds)
    saved = read_params(workdir, step, like)
    params = put_ensemble(saved, config.num_seeds, replicated(mesh))
    return RestoredModel(config, task, execution, mesh, model, params)


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


def evaluate_best_checkpoint(workdir: Path, mesh: Mesh, dataset: Dataset) -> Result:
    """Evaluates the best checkpoint on the test split, unless a valid result exists.

    If the data have no test split, it is evaluated on the validation split.
    """
    best = broadcast(lambda: find_step(workdir, "best"))
    restored = restore_model(workdir, best, mesh)
    sha256 = params_sha256(restored.params)
    task = dataset.task
    split = task.evaluated_split
    path = result_path(workdir, split, best)
    existing = broadcast(lambda: msgspec.to_builtins(read_result(path, sha256)))
    if existing is not None:
        return msgspec.convert(existing, Result)
    if split == "test":
        log_test_reading(workdir, best, sha256, "main")
    result = score(restored, best, task, split, dataset.splits[split])
    write_result(workdir, result)
    return result


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
    scores = score_logits(logits, labels, config.seed)
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
            score_logits(logits[:, :128], labels[:128], config.seed)
            if config.tutorial_128 and split == "test"
            else None
        ),
    )


def format_result(result: Result) -> str:
    """Formats the accuracy of a result; of sequences, also the balanced one."""
    text = format_accuracy(result)
    if result.task.image_shape is None:
        text += f", balanced accuracy {percent(result.balanced_accuracy)}"
    if result.tutorial_128 is not None:
        text += f"; on the first 128 {format_accuracy(result.tutorial_128)}"
    return text
