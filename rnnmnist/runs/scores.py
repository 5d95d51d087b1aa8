"""The scores of networks, in log lines, checkpoints and result files, and the best."""

from collections.abc import Mapping

import msgspec

from rnnmnist.config.tasks import MIN_VALIDATION_EXAMPLES


class Scores(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The predictions of a network, or of an ensemble, for labelled examples, counted.

    Counts of an ensemble are sums over its members; accuracies and losses are means.
    """

    seed: int | None = None  # of the first member
    examples: int  # for each network
    correct: int
    accuracy: float
    loss: float  # mean cross-entropy in nats
    # Only the evaluation of a whole split has these. Of them, a line of `metrics.jsonl`
    # has at most the balanced accuracy.
    accuracy_interval: tuple[float, float] | None = None  # 95 % Wilson, over examples
    balanced_accuracy: float | None = None  # mean over the classes
    confusion: tuple[tuple[int, ...], ...] = ()  # [true class][predicted class]
    # Only the evaluation of an ensemble on a whole split has these.
    accuracy_mean: float | None = None
    accuracy_std: float | None = None  # with `ddof=1`
    accuracy_mean_interval: tuple[float, float] | None = None  # 95 % t interval
    ensemble_correct: int | None = None  # by the mean of the members' probabilities
    ensemble_accuracy: float | None = None
    members: tuple["Scores", ...] = ()  # empty for a single network

    @property
    def networks(self) -> "tuple[Scores, ...]":
        """The scores of each network."""
        return self.members or (self,)


def best_step(
    validations: Mapping[int, Scores | None], *, has_class_weights: bool
) -> int:
    """Returns the step with the highest validation accuracy, the earlier one on a tie.

    If the run has class weights, balanced accuracies are compared. The step is the last
    one if there are too few validation examples to compare, and 0 if there are no
    steps.
    """
    validated = {step: scores for step, scores in validations.items() if scores}

    def rank(step: int) -> tuple[float, int]:
        scores = validations[step]
        if scores is None or scores.examples < MIN_VALIDATION_EXAMPLES:
            return 0.0, step
        if has_class_weights and scores.balanced_accuracy is not None:
            return scores.balanced_accuracy, -step
        return scores.accuracy, -step

    return max(validated or validations, key=rank, default=0)
