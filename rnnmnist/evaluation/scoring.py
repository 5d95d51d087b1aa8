"""Scores the logits of networks for labelled examples."""

import numpy as np
from msgspec.structs import asdict

from rnnmnist.config.tasks import MIN_VALIDATION_EXAMPLES, Task
from rnnmnist.data.examples import Examples, permutation_sha256
from rnnmnist.evaluation.network import Network
from rnnmnist.evaluation.probabilities import combine_members, log_softmax
from rnnmnist.models.parameters import params_sha256
from rnnmnist.runs.results import Result
from rnnmnist.runs.scores import NetworkScores, Scores
from rnnmnist.runtime.mesh import split_ensemble


def score_logits(
    logits: np.ndarray,
    labels: np.ndarray,
    first_seed: int = 0,
    multiplier: float = 1.0,
    groups: int | None = None,
) -> Scores:
    """Scores finite logits [ensemble, examples, classes].

    The seeds of the networks follow one another. `groups` is the number of groups that
    the examples have. The multiplier is that of the logits of a single network, or of
    the logits that the members of an ensemble have together.
    """
    logits = logits.astype(np.float64)
    calibrated = multiplier * combine_members(logits)
    ensemble = None
    if len(logits) == 1:
        logits = calibrated[None]
    else:
        ensemble = score_network(calibrated, labels)
    networks = [
        score_network(network, labels, first_seed + index)
        for index, network in enumerate(logits)
    ]
    return Scores(networks=tuple(networks), ensemble=ensemble, groups=groups)


def score_network(
    logits: np.ndarray, labels: np.ndarray, seed: int | None = None
) -> NetworkScores:
    """Scores finite logits [examples, classes] of a network, or of an ensemble."""
    examples, classes = logits.shape
    confusion = np.zeros((classes, classes), int)
    np.add.at(confusion, (labels, logits.argmax(axis=-1)), 1)
    of_labels = log_softmax(logits)[np.arange(examples), labels]
    totals = confusion.sum(axis=1)
    accuracies = np.diagonal(confusion)[totals > 0] / totals[totals > 0]
    return NetworkScores(
        seed=seed,
        examples=examples,
        correct=int(np.trace(confusion)),
        loss=-float(of_labels.mean()),
        confusion=tuple(map(tuple, confusion.tolist())),
        balanced_accuracy=float(accuracies.mean()),
    )


def score_split(
    run: Network, task: Task, split: str, examples: Examples, logits: np.ndarray
) -> Result:
    """Scores the logits of a run, [ensemble, examples, classes], for a whole split."""
    scores = score_logits(
        logits, examples.labels, run.config.seed, run.multiplier, examples.num_groups
    )
    scores_of_128 = None
    if run.config.tutorial_128 and split == "test":
        scores_of_128 = score_logits(
            logits[:, :128], examples.labels[:128], run.config.seed, run.multiplier
        )
    is_of_run = task.sha256 == run.task.sha256
    examples_trained_on = None
    if not is_of_run and run.header.trained_on and examples.digests is not None:
        is_trained_on = np.isin(examples.digests, run.header.trained_on)
        examples_trained_on = int(is_trained_on.sum())
    # The leave-one-out predictions chose a factor of the head of random filters.
    chose_multiplier = split.startswith("leave_one")
    if split == "validation" and not run.config.model.is_closed_form:
        # A checkpoint that a signal saved between two validations has no metrics.
        is_validated = run.validation_metrics is not None and run.multiplier != 1
        chose_multiplier = is_validated and len(examples) >= MIN_VALIDATION_EXAMPLES
    accuracy_by_group = None
    if examples.groups is not None:
        # Of several networks, the fraction that classifies an example correctly.
        is_correct = (logits.argmax(axis=-1) == examples.labels).mean(axis=0)
        groups, codes = np.unique(examples.groups, return_inverse=True)
        accuracies = np.bincount(codes, is_correct) / np.bincount(codes)
        names = groups.astype(str).tolist()
        accuracy_by_group = dict(zip(names, accuracies.tolist(), strict=True))
    permutation = None
    permutation_hash = None
    if run.config.data.view == "permuted":
        permutation = run.config.data.permutation
        pixels = task.time_steps * task.features
        permutation_hash = permutation_sha256(permutation, pixels)
    return Result(
        **asdict(scores),
        dataset=task.name,
        split=split,
        step=run.checkpoint_step,
        num_parameters=run.num_parameters,
        params_sha256=run.params_sha256,
        network_sha256=tuple(map(params_sha256, split_ensemble(run.params))),
        multiplier=run.multiplier,
        task=task,
        permutation=permutation,
        permutation_sha256=permutation_hash,
        trained_on_sha256=run.task.sha256,
        tutorial_128=scores_of_128,
        chose_multiplier=is_of_run and chose_multiplier,
        examples_trained_on=examples_trained_on,
        accuracy_by_group=accuracy_by_group,
    )
