"""The scores of networks, in log lines, headers of checkpoints and result files."""

import msgspec


class Scores(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The predictions of a network, or of an ensemble, for labelled examples, counted.

    Counts of an ensemble are sums over its members; accuracies and losses are means.
    Accuracies are fractions. What is None, or empty, is what these scores do not have.

    Attributes:
        seed: the seed of the first member.
        examples: the number of examples, for each network.
        groups: the number of their groups; None without groups.
        correct: the number of correct predictions, of all networks together.
        predictions: the number of predictions of all networks together, of which
            `correct` counts a part. A single network has one for each example.
        accuracy: the fraction of correct predictions.
        loss: the mean cross-entropy, in nats. For a single network, it is calibrated,
            but for a validation of the training.
        accuracy_interval: 95 % Wilson interval over examples. Only the evaluation of a
            whole split has it and the next two. Of these, a line of `metrics.jsonl` has
            at most the balanced accuracy.
        balanced_accuracy: the mean accuracy over the classes.
        confusion: counts by [true class][predicted class].
        accuracy_mean: as `accuracy`. Only the evaluation of an ensemble on a whole
            split has it and the next five.
        accuracy_std: the standard deviation over the members, with `ddof=1`.
        accuracy_mean_interval: 95 % t interval over the members.
        ensemble_correct: the number of correct predictions by the mean of the members'
            probabilities.
        ensemble_accuracy: their fraction.
        ensemble_loss: the loss of the calibrated mean of the members' probabilities.
        members: the scores of each network of an ensemble; empty for a single network.
    """

    seed: int | None = None
    examples: int
    groups: int | None = None
    correct: int
    predictions: int | None = None
    accuracy: float
    loss: float
    accuracy_interval: tuple[float, float] | None = None
    balanced_accuracy: float | None = None
    confusion: tuple[tuple[int, ...], ...] = ()
    accuracy_mean: float | None = None
    accuracy_std: float | None = None
    accuracy_mean_interval: tuple[float, float] | None = None
    ensemble_correct: int | None = None
    ensemble_accuracy: float | None = None
    ensemble_loss: float | None = None
    members: tuple["Scores", ...] = ()

    @property
    def networks(self) -> "tuple[Scores, ...]":
        """The scores of each network."""
        return self.members or (self,)
