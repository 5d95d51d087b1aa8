"""A classifier of sequences with the interface of scikit-learn."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike

from rnnmnist.config.functions import identify
from rnnmnist.config.tasks import MIN_VALIDATION_EXAMPLES
from rnnmnist.data.sequences.checking import refuse_masked, valid_array
from rnnmnist.errors import UserError
from rnnmnist.fitting import FIT_SETTINGS, fit, full_names
from rnnmnist.model import Model
from rnnmnist.runs.logs import rank_validations

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data
except ModuleNotFoundError as error:
    raise ImportError(
        "RNNClassifier needs scikit-learn: pip install scikit-learn"
    ) from error

# A number of updates that no run reaches. With it, a run saves its last step only.
NEVER = 2**31 - 1


# The fields are the parameters. scikit-learn copies them as they are, so they are
# checked in `fit`.
@dataclasses.dataclass(kw_only=True, eq=False, repr=False)
class RNNClassifier(ClassifierMixin, BaseEstimator):
    """A recurrent network that classifies sequences, for scikit-learn's tools.

    `fit` trains on all of X unless `early_stopping`, as `rnnmnist.fit` does with
    `validation=False`. The defaults are those of `rnnmnist.fit`.

    Args:
        workdir: the folder of the run, which the same `fit` resumes. None trains in
            memory, as a cross-validation needs: its folds would share a folder.
        random_state: the setting `seed`. None is 0.
        verbose: whether progress and a summary are printed.
        cell: the recurrent cell: "filters", "lru", "lstm", "gru", "rnn", or your own,
            as a class or as "SOURCE:NAME,KEY=VALUE,…". None chooses by the data:
            "filters" below 2,000 sequences (500 if no feature has more than two
            values), otherwise "lru". A parameter from `num_layers` to
            `label_smoothing`, except `differences`, also chooses "lru", and so does
            `early_stopping`: random filters do not have them.
        hidden_size: units of the hidden state, or filters. None is 64; of filters,
            1,000.
        num_layers: stacked layers, each of which reads the outputs of the layer before
            it. None is 1; of lru, 2.
        dropout: the probability with which training drops each output of a layer. None
            is 0.
        pooling: what the head reads: the hidden state after the "last" time step, or
            the "mean" of those of all time steps, which None is.
        bidirectional: whether a second recurrence reads the sequence from its end. None
            is False.
        differences: whether the recurrence also reads each feature's difference from
            the time step before. None is True.
        window: consecutive time steps that the recurrence reads at a time. None is 8
            if a sequence of X has more than 500 time steps, otherwise 1.
        stride: time steps from one window to the next. None is a quarter of the
            window, rounded down, at least 1.
        num_epochs: passes over X. None is 20, but at least 600 updates.
        num_steps: updates, instead of `num_epochs`.
        batch_size: sequences per update. None is 16 to 128, growing with the number of
            sequences.
        learning_rate: the peak learning rate. None is 0.004.
        weight_decay: the weight decay of AdamW; 0 is Adam. None is 0.1.
        label_smoothing: the label fraction that is spread over all classes. None is
            0.1.
        class_weight: the weights of the classes in the training loss: "balanced", or a
            mapping from classes to weights. None weighs all sequences alike.
        missing: what is done with NaN: "error" refuses it, "forward_fill" repeats the
            last value of the feature, and "zero" takes 0 after the normalization.
        normalize: "standardize" subtracts each feature's mean in training and divides
            by its standard deviation; "none" leaves the values.
        early_stopping: whether a tenth of X is held out, as `rnnmnist.fit` does it, and
            training ends if its loss has not fallen for some epochs, or with class
            weights, if its balanced accuracy has not risen. The network is the best one
            by the same measure; with at least 50 held-out sequences, the one with the
            highest accuracy, or balanced accuracy.
        n_iter_no_change: the number of these epochs, or of validations if
            `eval_every_steps` is among the settings. It is the setting `patience`, from
            which `keep_checkpoints` follows, too.
        settings: other settings of `rnnmnist.fit` by their names, such as
            `{"schedule": "constant"}`. Two of them have other defaults than there:
            `placement` is "host", so that a second `fit` compiles nothing if the time
            steps, features, classes, batch size and settings are the same; and without
            `early_stopping`, `eval_every_steps` is so large that only the last step is
            saved.

    X is real [n, time, features], [n, time] of one feature, or a list of sequences,
    [time, features] or [time], of different lengths; y is [n], integers, strings or
    booleans.

    Attributes:
        model_: the network, a `rnnmnist.Model`, whose `reason` says why its cell was
            chosen.
        cell_: the cell that was chosen or given, such as "filters" or "lru"; the name
            of your own network, if there is one.
        leave_one_out_score_: the leave-one-out accuracy of random filters; with groups,
            a group is left out at a time. Trained networks, and filters with a
            validation split, do not have it.
        n_iter_: the number of epochs.
        workdir_: the folder of the run; None in memory.

    A pickle carries the network, not the sequences.

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
        """Trains on all sequences, or all but those that early stopping holds out.

        Groups, such as the subject of each sequence, are held out as a whole. With
        random filters, each of them is left out in the validation.

        Raises:
            ValueError, TypeError: if X or y fail the checks of scikit-learn.
            UserError: as `rnnmnist.fit`.
            RunError: as `rnnmnist.fit`.
        """
        inputs, y = self._check(X, y=y)
        check_classification_targets(y)
        classes, labels = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise UserError("y: must have at least 2 classes, not 1")
        model = fit(
            inputs,
            classes.astype(str)[labels],
            groups=groups,
            workdir=self.workdir,
            verbose=self.verbose,
            **self._settings_of_fit(),
        )
        last_step = model.record.step
        config, examples = model.config, model.task.examples
        if self.early_stopping and examples["validation"] < MIN_VALIDATION_EXAMPLES:
            ranks = rank_validations(model.record.lines, last_step, config.train)
            best = max(ranks, key=ranks.__getitem__, default=last_step)
            model = Model(model.record, str(best), model.settings, model.dataset)
        self.model_ = model
        self.classes_ = classes
        self.n_iter_ = math.ceil(
            last_step * config.train.batch_size / examples["train"]
        )
        if getattr(inputs, "ndim", 0) == 3:  # else scikit-learn sets it, if X has axes
            self.n_features_in_ = model.task.features
        return self

    @property
    def workdir_(self) -> Path | None:
        """The folder of the run; None in memory."""
        return self.model_.workdir

    @property
    def cell_(self) -> str:
        """The cell of the network, or your own network."""
        model = self.model_.config.model
        return identify(model.cell if model.network is None else model.network)

    @property
    def leave_one_out_score_(self) -> float:
        """The leave-one-out accuracy of random filters."""
        metrics = self.model_.validation_metrics
        if metrics is None or not metrics.split.startswith("leave_one"):
            raise AttributeError(
                "leave_one_out_score_: exists only for random filters without a "
                "validation split"
            )
        return metrics.accuracy

    def predict_proba(self, X: Any) -> np.ndarray:
        """Returns the probability of each class, float32 [n, classes]."""
        check_is_fitted(self)
        probabilities = self.model_.classify(self._check(X))
        names = self.model_.task.classes
        order = [names.index(name) for name in self.classes_.astype(str)]
        return probabilities[:, order]

    def predict(self, X: Any) -> np.ndarray:
        """Returns the most probable class of each sequence, [n]."""
        probabilities = self.predict_proba(X)  # refuses an estimator without a fit
        predicted: np.ndarray = self.classes_[probabilities.argmax(axis=1)]
        return predicted

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.input_tags.allow_nan = self.missing != "error"
        return tags

    def _settings_of_fit(self) -> dict[str, Any]:
        own: dict[str, Any] = {
            name: value
            for name, value in self.get_params(deep=False).items()
            if name in FIT_SETTINGS and value is not None
        }
        if self.random_state is not None:
            own["seed"] = self.random_state
        if self.early_stopping:
            own["patience"] = FIT_SETTINGS["patience"].check(self.n_iter_no_change)
            # The checkpoint of the lowest loss, and those of the validations after it.
            own["keep_checkpoints"] = own["patience"] + 1
        others = dict(self.settings or {})
        full_names(others, FIT_SETTINGS)  # refuses other names
        repeated = sorted(own.keys() & others.keys())
        if repeated:
            raise UserError(
                f"settings: {repeated[0]} is determined by the parameters of "
                "RNNClassifier; set these instead"
            )
        defaults = {"validation": self.early_stopping, "placement": "host"}
        if not self.early_stopping:
            defaults["eval_every_steps"] = NEVER
        return defaults | own | others

    # Checks X as scikit-learn does, with y in `fit`, and keeps lists of sequences.
    def _check(self, X: Any, **y: Any) -> Any:
        for name, values in {"X": X, **y}.items():
            refuse_masked(name, values)
        if isinstance(X, np.ndarray) and X.dtype.kind == "O" and X.ndim == 1:
            raise UserError("X: must not be an array of objects; pass list(X)")
        if isinstance(X, np.ndarray) and X.size and isinstance(X.flat[0], str):
            valid_array("X", X, "biuf")  # refuses texts, and says how to encode them
        if isinstance(X, list | tuple):
            if not y:
                return X
            self.__dict__.pop("feature_names_in_", None)  # of an earlier fit
            return X, column_or_1d(y["y"], warn=True)
        return validate_data(
            self,
            X,
            **y,
            reset=bool(y),
            allow_nd=True,
            ensure_2d=getattr(X, "ndim", 2) != 3,  # then the width is compared
            ensure_all_finite="allow-nan",  # the run refuses or fills it
        )
