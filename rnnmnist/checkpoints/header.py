"""The header of a checkpoint: what it says about the run and about its arrays."""

import statistics
from collections.abc import Mapping, Sequence

import msgspec

from rnnmnist.config.schema import Config
from rnnmnist.config.tasks import MIN_VALIDATION_EXAMPLES, Task

# Raised if a setting or a field of a record below is renamed or removed, with a run of
# `tools/convert_reference.py`. What is added has the default that runs had before.
FORMAT = 2


class NetworkMetrics(msgspec.Struct, frozen=True):
    """The metrics of a member of an ensemble at a step."""

    seed: int
    loss: float  # mean cross-entropy in nats
    accuracy: float
    correct: int


class Metrics(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The metrics at a step: a line of `metrics.jsonl`.

    Of an ensemble, loss and accuracy are means, and `correct` is a sum.
    """

    step: int
    split: str
    loss: float
    accuracy: float
    correct: int
    examples: int  # for each network
    examples_per_second: float | None = None  # of training, of all members together
    members: tuple[NetworkMetrics, ...] = ()  # of an ensemble

    @classmethod
    def create(
        cls,
        step: int,
        split: str,
        examples: int,
        seeds: Sequence[int],
        losses: Sequence[float],
        correct: Sequence[int],
        examples_per_second: float | None = None,
    ) -> "Metrics":
        """Returns the metrics of networks with these seeds, losses and counts."""
        networks = tuple(
            NetworkMetrics(seed, loss, count / examples, count)
            for seed, loss, count in zip(seeds, losses, correct, strict=True)
        )
        return cls(
            step=step,
            split=split,
            loss=statistics.fmean(losses),
            # One division of integers, so that equal counts tie.
            accuracy=sum(correct) / (len(networks) * examples),
            correct=sum(correct),
            examples=examples,
            examples_per_second=examples_per_second,
            members=networks if len(networks) > 1 else (),
        )

    @property
    def networks(self) -> "Sequence[Metrics | NetworkMetrics]":
        """The metrics of each network."""
        return self.members or (self,)


def best_step(validations: Mapping[int, Metrics | None]) -> int | None:
    """Returns the step with the highest validation accuracy, the earlier one on a tie.

    It is the last one if there are too few validation examples to compare accuracies,
    and None if no step was validated.
    """
    validated = {step: found for step, found in validations.items() if found}

    def rank(step: int) -> tuple[float, int]:
        if validated[step].examples < MIN_VALIDATION_EXAMPLES:
            return 0.0, step
        return validated[step].accuracy, -step

    return max(validated, key=rank, default=None)


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The content of the item `header`, which the file has with its SHA-256."""

    format: int = FORMAT
    config: Config
    task: Task
    metrics: Metrics | None  # of the validation split
    arrays: dict[str, dict[str, str]]  # SHA-256 of every array, by item and path

    @property
    def has_training_state(self) -> bool:
        """Whether training can resume from the checkpoint."""
        return "state" in self.arrays
