"""Computes metrics from logits and labels."""

import numpy as np
from msgspec.structs import asdict

from rnnmnist.config.tasks import Task
from rnnmnist.data.examples import Examples, permutation_sha256
from rnnmnist.evaluation.network import Network
from rnnmnist.evaluation.probabilities import combine_members, log_softmax
from rnnmnist.models.parameters import params_sha256
from rnnmnist.runs.metrics import EnsembleMetrics, Metrics, Result
from rnnmnist.runtime.mesh import split_ensemble


def compute_ensemble_metrics(
    logits: np.ndarray,
    labels: np.ndarray,
    first_seed: int = 0,
    temperature: float = 1.0,
) -> EnsembleMetrics:
    """Computes metrics from finite logits [ensemble, examples, classes].

    Args:
        logits: uncalibrated logits.
        labels: int [examples].
        first_seed: seed of the first member. The seeds of the members are consecutive.
        temperature: temperature of a single network, or of the ensemble. Metrics of
            ensemble members use temperature 1.
    """
    logits = logits.astype(np.float64)
    calibrated_logits = combine_members(logits) / temperature
    ensemble = None
    if len(logits) == 1:
        logits = calibrated_logits[None]
    else:
        ensemble = compute_metrics(calibrated_logits, labels)
    members = [
        compute_metrics(member, labels, first_seed + index)
        for index, member in enumerate(logits)
    ]
    return EnsembleMetrics(members=tuple(members), ensemble=ensemble)


def compute_metrics(
    logits: np.ndarray, labels: np.ndarray, seed: int | None = None
) -> Metrics:
    """Computes metrics from finite logits [examples, classes]."""
    num_examples, num_classes = logits.shape
    confusion = np.zeros((num_classes, num_classes), int)
    np.add.at(confusion, (labels, logits.argmax(axis=-1)), 1)
    log_likelihoods = log_softmax(logits)[np.arange(num_examples), labels]
    totals = confusion.sum(axis=1)
    recalls = np.diagonal(confusion)[totals > 0] / totals[totals > 0]
    return Metrics(
        seed=seed,
        examples=num_examples,
        correct=int(np.trace(confusion)),
        loss=-float(log_likelihoods.mean()),
        confusion=tuple(map(tuple, confusion.tolist())),
        balanced_accuracy=float(recalls.mean()),
    )


def evaluate_logits(
    network: Network, task: Task, split: str, examples: Examples, logits: np.ndarray
) -> Result:
    """Computes the result on a split from logits [ensemble, examples, classes]."""
    metrics = compute_ensemble_metrics(
        logits,
        examples.labels,
        network.config.seed,
        network.temperature,
    )
    tutorial_metrics = None
    if network.config.tutorial_128 and split == "test":
        tutorial_metrics = compute_ensemble_metrics(
            logits[:, :128],
            examples.labels[:128],
            network.config.seed,
            network.temperature,
        )
    is_training_data = task.sha256 == network.task.sha256
    num_seen = None
    if not is_training_data and network.trained_on and examples.digests is not None:
        num_seen = int(np.isin(examples.digests, network.trained_on).sum())
    accuracy_by_group = None
    if examples.groups is not None:
        # For each example, the fraction of members that classify it correctly.
        is_correct = (logits.argmax(axis=-1) == examples.labels).mean(axis=0)
        groups, codes = np.unique(examples.groups, return_inverse=True)
        accuracies = np.bincount(codes, is_correct) / np.bincount(codes)
        names = groups.astype(str).tolist()
        accuracy_by_group = dict(zip(names, accuracies.tolist(), strict=True))
    permutation = None
    permutation_hash = None
    if network.config.data.view == "permuted":
        permutation = network.config.data.permutation
        pixels = task.time_steps * task.features
        permutation_hash = permutation_sha256(permutation, pixels)
    return Result(
        **asdict(metrics),
        dataset=task.name,
        split=split,
        step=network.checkpoint_step,
        num_parameters=network.num_parameters,
        params_sha256=network.params_sha256,
        member_sha256=tuple(map(params_sha256, split_ensemble(network.params))),
        temperature=network.temperature,
        task=task,
        permutation=permutation,
        permutation_sha256=permutation_hash,
        trained_on_sha256=network.task.sha256,
        tutorial_128=tutorial_metrics,
        examples_seen_in_training=num_seen,
        accuracy_by_group=accuracy_by_group,
    )
