"""`RNNClassifier`, the scikit-learn estimator."""

import dataclasses
import math
from collections.abc import Callable, Mapping
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

# If `eval_every_steps` is larger than the number of steps, only the last step is saved.
NEVER = 2**31 - 1


# The fields are the estimator's parameters. They are checked in `fit`, because
# `sklearn.base.clone` requires that the constructor stores them unchanged.
@dataclasses.dataclass(kw_only=True, eq=False, repr=False)
class RNNClassifier(ClassifierMixin, BaseEstimator):
    """A scikit-learn estimator that classifies sequences with a recurrent network.

    Unless `early_stopping` is set, `fit` trains on all of X, like `rnnmnist.fit` with
    `validation=False`. The defaults are the same as in `rnnmnist.fit`, except for two
    defaults described under `settings`.

    X is a real array of shape [n, time, features]; a real array of shape [n, time], for
    a single feature; or a list of sequences of different lengths, each of shape
    [time, features] or [time]. y is an array of n integers, strings or booleans.

    Args:
        workdir: run folder. A second call to `fit` with the same sequences and
            parameters resumes the run. If None, the network is trained in memory;
            cross-validation requires None because folds cannot share a folder.
        random_state: random seed (the setting `seed`). None means 0.
        verbose: whether to print progress and a summary.
        cell: recurrent cell: "filters", "lru", "lstm", "gru", "rnn", or a custom cell,
            passed as a class or as "SOURCE:NAME,KEY=VALUE,…". If None, the cell is
            "filters" for fewer than 2,000 sequences (500 if no feature has more than
            two values), and "lru" otherwise. It is also "lru" if you set
            `early_stopping` or any parameter from `num_layers` to `label_smoothing`
            other than `deltas`, because they do not apply to random filters.
        hidden_size: number of hidden units or random filters. None means 64 hidden
            units or 1,000 filters.
        num_layers: number of stacked recurrent layers. None means 2 for "lru" and 1 for
            other cells.
        dropout: dropout probability for the outputs of each layer. None means 0.
        pooling: input of the head: the hidden state after the last time step ("last"),
            or the mean of the hidden states over all time steps ("mean"). None means
            "mean".
        bidirectional: whether to add a second recurrent layer that reads sequences
            backwards. None means False.
        deltas: whether to append delta features, which are the differences between
            consecutive time steps. None means True.
        window: number of consecutive time steps that the recurrent layer reads at once.
            None means 8 if X contains sequences with more than 500 time steps, and 1
            otherwise.
        stride: number of time steps between the starts of consecutive windows. None
            means a quarter of the window length, rounded down, but at least 1.
        num_epochs: number of passes over X. None means 20, but at least 600 steps.
        num_steps: number of optimizer steps; set either `num_steps` or `num_epochs`.
        batch_size: number of sequences per step. If None, it grows from 16 to 128 with
            the number of sequences.
        learning_rate: peak learning rate. None means 0.004.
        weight_decay: weight decay of AdamW. 0 means Adam; None means 0.1.
        label_smoothing: fraction of each target's probability that is spread evenly
            over all classes. None means 0.1.
        class_weight: class weights in the training loss: "balanced", or a mapping from
            classes to weights. If None, all sequences have the same weight.
        missing: whether to raise an error for NaN ("error"), replace NaN with the
            feature's previous value ("forward_fill"), or replace NaN with 0 after
            normalization ("zero").
        normalize: whether to subtract each feature's training mean and divide by its
            training standard deviation ("standardize"), or to keep the values ("none").
        early_stopping: whether to hold out a tenth of X, as in `rnnmnist.fit`, and stop
            once the validation loss has not improved for `n_iter_no_change` epochs. If
            class weights are set, the balanced accuracy is used instead of the loss.
            If at least 50 sequences are held out, `model_` is the checkpoint with the
            highest validation accuracy (balanced accuracy if class weights are set).
            Otherwise, it is the checkpoint with the best early-stopping metric.
        n_iter_no_change: patience of early stopping, in epochs, or in validations if
            `settings` contains `eval_every_steps`. The settings `patience` and
            `keep_checkpoints` are derived from it.
        settings: other settings of `rnnmnist.fit`, such as `{"schedule": "constant"}`.
            Two defaults differ from `rnnmnist.fit`. `placement` is "host", so a second
            `fit` with the same number of time steps, features and classes, and the same
            batch size and settings, compiles nothing. Unless `early_stopping` is set,
            `eval_every_steps` is so large that only the last step is saved.

    Attributes:
        model_: the trained network, an `rnnmnist.Model`. `model_.reason` explains why
            its cell was chosen.
        cell_: name of the cell, such as "filters" or "lru". If the setting `network` is
            set, name of the custom network.
        leave_one_out_score_: leave-one-out accuracy of random filters, or their
            leave-one-group-out accuracy if `groups` were passed to `fit`. Trained
            networks and filters with a validation split do not have this attribute.
        n_iter_: number of training epochs, rounded up.
        workdir_: run folder; None if the network was trained in memory.

    A pickle contains the network but not the training sequences.

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
    cell: str | Callable[..., Any] | None = None
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
        """Trains the network; if `early_stopping` is set, a tenth of X is held out.

        Args:
            X: sequences, as described for the class.
            y: class of each sequence, as described for the class.
            groups: group of each sequence, such as its subject: n integers or strings.
                Whole groups are held out for early stopping. Random filters are
                validated by leaving one group out at a time.

        Raises:
            ValueError, TypeError: if X or y is invalid according to scikit-learn.
            UserError: if y contains a single class; otherwise, see `rnnmnist.fit`.
            RunError: see `rnnmnist.fit`.
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
            metrics = early_stopping_metrics(
                model.record.lines, last_step, config.train
            )
            best_step = max(metrics, key=metrics.__getitem__, default=last_step)
            model = Model(model.record, str(best_step), model.settings, model.dataset)
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
        """Run folder; None if the network was trained in memory."""
        return self.model_.workdir

    @property
    def cell_(self) -> str:
        """Name of the cell or custom network."""
        model = self.model_.config.model
        return spec_without_path(model.cell if model.network is None else model.network)

    @property
    def leave_one_out_score_(self) -> float:
        """Leave-one-out accuracy of random filters, as a fraction."""
        metrics = self.model_.validation_metrics
        if metrics is None or not metrics.split.startswith("leave_one"):
            raise AttributeError(
                "leave_one_out_score_: exists only for random filters without a "
                "validation split"
            )
        return metrics.accuracy

    def predict_proba(self, X: Any) -> np.ndarray:
        """Returns class probabilities in `classes_` order, float32 [n, classes]."""
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
            # Keep the best checkpoint and up to `patience` later checkpoints.
            settings["keep_checkpoints"] = settings["patience"] + 1
        extra = dict(self.settings or {})
        to_full_names(extra, FIT_SETTINGS)  # raises an error for unknown names
        duplicates = sorted(settings.keys() & extra.keys())
        if duplicates:
            raise UserError(
                f"settings: {duplicates[0]} is determined by a parameter of "
                "RNNClassifier; set that parameter instead"
            )
        defaults = {"validation": self.early_stopping, "placement": "host"}
        if not self.early_stopping:
            defaults["eval_every_steps"] = NEVER
        return defaults | settings | extra

    # Applies scikit-learn's checks to X and, in `fit`, to y. Lists are not converted.
    def _check(self, X: Any, **y: Any) -> Any:
        for name, values in {"X": X, **y}.items():
            reject_masked(name, values)
        if isinstance(X, np.ndarray) and X.dtype.kind == "O" and X.ndim == 1:
            raise UserError("X: must not be an object array; pass list(X)")
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
            ensure_all_finite="allow-nan",  # depends on `missing`
        )
