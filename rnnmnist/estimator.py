"""The scikit-learn estimator."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike

from rnnmnist.config.functions import spec_without_path
from rnnmnist.config.tasks import MIN_VALIDATION_EXAMPLES
from rnnmnist.data.sequences.checking import reject_masked, validate_array
from rnnmnist.errors import UserError
from rnnmnist.fitting import FIT_SETTINGS, fit, to_full_names
from rnnmnist.model import Model
from rnnmnist.runs.logs import early_stopping_metrics

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data
except ModuleNotFoundError as error:
    raise ImportError(
        "RNNClassifier needs scikit-learn: pip install scikit-learn"
    ) from error

# A value of `eval_every_steps` that no run reaches: only the last step is saved.
NEVER = 2**31 - 1


# The fields are the estimator's parameters. `fit` checks them, since `clone` of
# scikit-learn requires that the constructor stores them unchanged.
@dataclasses.dataclass(kw_only=True, eq=False, repr=False)
class RNNClassifier(ClassifierMixin, BaseEstimator):
    """A scikit-learn estimator that classifies sequences with a recurrent network.

    `fit` trains on all of X unless `early_stopping` is set, like `rnnmnist.fit` with
    `validation=False`. The defaults are the same as in `rnnmnist.fit`.

    X is a real array [n, time, features], a real array [n, time] with one feature per
    time step, or a list of sequences of different lengths, [time, features] or [time].
    y is [n]: integers, strings or booleans.

    Args:
        workdir: run folder. Calling the same `fit` again resumes the run. None trains
            in memory, which cross-validation needs because folds cannot share a folder.
        random_state: the setting `seed`. None means 0.
        verbose: whether to print progress and a summary.
        cell: recurrent cell: "filters", "lru", "lstm", "gru", "rnn", or a custom cell,
            given as a class or as "SOURCE:NAME,KEY=VALUE,…". None chooses by the data:
            "filters" below 2,000 sequences (500 if no feature has more than two
            values), otherwise "lru". `early_stopping` and the parameters from
            `num_layers` to `label_smoothing`, except `deltas`, do not apply to random
            filters: setting any of them also chooses "lru".
        hidden_size: units of the hidden state, or number of filters. None means 64
            units or 1,000 filters.
        num_layers: stacked recurrent layers. None means 1, or 2 for "lru".
        dropout: dropout probability for the outputs of each layer. None means 0.
        pooling: input of the head: the hidden state after the "last" time step, or the
            "mean" of the hidden states over all time steps. None means "mean".
        bidirectional: whether to add a second recurrent layer that reads sequences
            backwards. None means False.
        deltas: whether to append delta features, the differences between consecutive
            time steps. None means True.
        window: consecutive time steps per input of the recurrent layer. None means 8 if
            X has sequences of more than 500 time steps, otherwise 1.
        stride: time steps from one window to the next. None means a quarter of the
            window, rounded down, and at least 1.
        num_epochs: passes over X. None means 20, with at least 600 steps.
        num_steps: optimizer steps, instead of `num_epochs`.
        batch_size: sequences per step. None means 16 to 128, growing with the number of
            sequences.
        learning_rate: peak learning rate. None means 0.004.
        weight_decay: weight decay of AdamW; 0 means Adam. None means 0.1.
        label_smoothing: fraction of the label probability that is spread over all
            classes. None means 0.1.
        class_weight: class weights in the training loss: "balanced", or a mapping from
            classes to weights. None weights all sequences equally.
        missing: treatment of NaN: "error" raises an error, "forward_fill" repeats the
            previous value of the feature, "zero" inserts 0 after normalization.
        normalize: "standardize" subtracts the training mean of each feature and divides
            by its training standard deviation; "none" keeps the values.
        early_stopping: whether to hold out a tenth of X, as `rnnmnist.fit` does, and
            stop when the validation loss has not improved for `n_iter_no_change`
            epochs. With class weights, balanced accuracy replaces the loss. With at
            least 50 held-out sequences, `model_` is the step with the highest accuracy,
            or with class weights the highest balanced accuracy. With fewer, it is the
            best step by the metric of early stopping.
        n_iter_no_change: patience of early stopping, in epochs, or in validations if
            `settings` contains `eval_every_steps`. It determines the settings
            `patience` and `keep_checkpoints`.
        settings: more settings of `rnnmnist.fit`, such as `{"schedule": "constant"}`.
            Two defaults differ from `rnnmnist.fit`. `placement` is "host", so that a
            second `fit` with the same time steps, features, classes, batch size and
            settings compiles nothing. Without `early_stopping`, `eval_every_steps` is
            so large that only the last step is saved.

    Attributes:
        model_: trained network, a `rnnmnist.Model`. `model_.reason` explains the choice
            of the cell.
        cell_: name of the cell, such as "filters" or "lru", or of the custom network.
        leave_one_out_score_: leave-one-out accuracy of random filters; with groups,
            leave-one-group-out accuracy. Not available for trained networks, or for
            filters with a validation split.
        n_iter_: number of epochs.
        workdir_: run folder; None in memory.

    A pickle contains the network, without the training sequences.

    >>> import numpy as np, rnnmnist
    >>> y = np.array(["low", "high"])[np.arange(40) % 2]
    >>> noise = np.random.default_rng(0).normal(size=(40, 5))
    >>> X = noise + 5 * (y == "high")[:, None]
    >>> X[0, 2] = np.nan
    >>> classifier = rnnmnist.RNNClassifier(missing="forward_fill")
    >>> classifier.fit(X, y).predict(X[:3]).tolist()
    ['low', 'high', 'low']
    """

    workdir: str | Path | None = None
    random_state: int | None = None
    verbose: bool = False
    cell: str | None = None
    hidden_size: int | None = None
    num_layers: int | None = None
    dropout: float | None = None
    pooling: Literal["last", "mean"] | None = None
    bidirectional: bool | None = None
    deltas: bool | None = None
    window: int | None = None
    stride: int | None = None
    num_epochs: float | None = None
    num_steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    label_smoothing: float | None = None
    class_weight: Literal["balanced"] | Mapping[Any, float] | None = None
    missing: Literal["error", "forward_fill", "zero"] = "error"
    normalize: Literal["standardize", "none"] = "standardize"
    early_stopping: bool = False
    n_iter_no_change: int = 10
    settings: Mapping[str, Any] | None = None

    def fit(self, X: Any, y: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Trains on the sequences, except any that early stopping holds out.

        Args:
            X: sequences, as described for the class.
            y: classes, [n].
            groups: integers or strings [n], such as the subject of each sequence. Early
                stopping holds out whole groups; random filters are validated by leaving
                one group out.

        Raises:
            ValueError, TypeError: if X or y fail the checks of scikit-learn.
            UserError: as in `rnnmnist.fit`.
            RunError: as in `rnnmnist.fit`.
        """
        inputs, y = self._check(X, y=y)
        check_classification_targets(y)
        classes, labels = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise UserError("y: must have at least 2 classes, not 1 class")
        model = fit(
            inputs,
            classes.astype(str)[labels],
            groups=groups,
            workdir=self.workdir,
            verbose=self.verbose,
            **self._fit_settings(),
        )
        last_step = model.record.step
        config, examples = model.config, model.task.examples
        if self.early_stopping and examples["validation"] < MIN_VALIDATION_EXAMPLES:
            ranks = early_stopping_metrics(model.record.lines, last_step, config.train)
            best = max(ranks, key=ranks.__getitem__, default=last_step)
            model = Model(model.record, str(best), model.settings, model.dataset)
        self.model_ = model
        self.classes_ = classes
        self.n_iter_ = math.ceil(
            last_step * config.train.batch_size / examples["train"]
        )
        if getattr(inputs, "ndim", 0) == 3:  # `validate_data` sets it for 2-D arrays
            self.n_features_in_ = model.task.features
        return self

    @property
    def workdir_(self) -> Path | None:
        """Run folder; None in memory."""
        return self.model_.workdir

    @property
    def cell_(self) -> str:
        """Name of the cell, or of the custom network."""
        model = self.model_.config.model
        return spec_without_path(model.cell if model.network is None else model.network)

    @property
    def leave_one_out_score_(self) -> float:
        """Leave-one-out accuracy of random filters."""
        metrics = self.model_.validation_metrics
        if metrics is None or not metrics.split.startswith("leave_one"):
            raise AttributeError(
                "leave_one_out_score_: exists only for random filters without a "
                "validation split"
            )
        return metrics.accuracy

    def predict_proba(self, X: Any) -> np.ndarray:
        """Returns class probabilities, float32 [n, classes], ordered as `classes_`."""
        check_is_fitted(self)
        probabilities = self.model_.classify(self._check(X))
        names = self.model_.task.classes
        order = [names.index(name) for name in self.classes_.astype(str)]
        return probabilities[:, order]

    def predict(self, X: Any) -> np.ndarray:
        """Returns the most probable class of each sequence, [n]."""
        probabilities = self.predict_proba(X)  # raises NotFittedError
        predicted: np.ndarray = self.classes_[probabilities.argmax(axis=1)]
        return predicted

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.input_tags.allow_nan = self.missing != "error"
        return tags

    def _fit_settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {
            name: value
            for name, value in self.get_params(deep=False).items()
            if name in FIT_SETTINGS and value is not None
        }
        if self.random_state is not None:
            settings["seed"] = self.random_state
        if self.early_stopping:
            settings["patience"] = FIT_SETTINGS["patience"].check(self.n_iter_no_change)
            # The checkpoint with the lowest loss, and up to `patience` later ones.
            settings["keep_checkpoints"] = settings["patience"] + 1
        extra = dict(self.settings or {})
        to_full_names(extra, FIT_SETTINGS)  # raises an error for unknown names
        duplicates = sorted(settings.keys() & extra.keys())
        if duplicates:
            raise UserError(
                f"settings: {duplicates[0]} is determined by the parameters of "
                "RNNClassifier; set these instead"
            )
        defaults = {"validation": self.early_stopping, "placement": "host"}
        if not self.early_stopping:
            defaults["eval_every_steps"] = NEVER
        return defaults | settings | extra

    # Applies scikit-learn's checks to X, and to y if given. Lists stay lists.
    def _check(self, X: Any, **y: Any) -> Any:
        for name, values in {"X": X, **y}.items():
            reject_masked(name, values)
        if isinstance(X, np.ndarray) and X.dtype.kind == "O" and X.ndim == 1:
            raise UserError("X: must not be an array of objects; pass list(X)")
        if isinstance(X, np.ndarray) and X.size and isinstance(X.flat[0], str):
            validate_array("X", X, "biuf")  # the error explains how to encode text
        if isinstance(X, list | tuple):
            if not y:
                return X
            self.__dict__.pop("feature_names_in_", None)  # set by an earlier fit
            return X, column_or_1d(y["y"], warn=True)
        return validate_data(
            self,
            X,
            **y,
            reset=bool(y),
            allow_nd=True,
            ensure_2d=getattr(X, "ndim", 2) != 3,  # also checks the feature count
            ensure_all_finite="allow-nan",  # the run rejects or fills NaN
        )
