"""The scores of networks, in log lines, headers of checkpoints and result files."""

import msgspec


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
