"""A classifier of sequences with the interface of scikit-learn."""

import math
import numbers
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike

from rnnmnist.config.files import parse_folder
from rnnmnist.config.resolving import choose_network, default_batch_size
from rnnmnist.config.schema import CLOSED_FORM_CELLS
from rnnmnist.config.settings import TYPES, check_name, to_python
from rnnmnist.config.tasks import MIN_VALIDATION_EXAMPLES
from rnnmnist.data.sequences.validation import (
    count_in_groups,
    refuse_label_shape,
    refuse_masked,
    takes_last,
)
from rnnmnist.errors import UserError, as_failure, format_value
from rnnmnist.inference.predictor import Predictor
from rnnmnist.runs.checkpoint_files import network_files
from rnnmnist.runs.logs import lowest_loss
from rnnmnist.runs.workdir import list_steps
from rnnmnist.training.fit import (
    FIT_SETTINGS,
    LISTED_WITH_SECTIONS,
    configure,
    fit,
)

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, clone
    from sklearn.model_selection import StratifiedShuffleSplit
    from sklearn.utils import check_consistent_length, check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data
except ModuleNotFoundError as error:
    raise ImportError("RNNClassifier needs: pip install scikit-learn") from error

# The parameters of the classifier that stand for settings with other names.
PARAMETER_OF = {
    "seed": "random_state",
    "validation": "early_stopping",
    "patience": "n_iter_no_change",
}
# A number of updates that no run reaches. With it, a run saves its last step only.
NEVER = 2**31 - 1


class _Folder:
    """A temporary folder that is removed with this object."""

    def __init__(self) -> None:
        try:
            self.path = Path(tempfile.mkdtemp(prefix="rnnmnist-"))
        except OSError as error:  # no temporary folder can be written
            raise as_failure(error) or error from None
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


class RNNClassifier(ClassifierMixin, BaseEstimator):
    """A recurrent network that classifies sequences, for scikit-learn's tools.

    `fit` trains on all of X unless `early_stopping`, as `rnnmnist.fit` does with
    `validation=False`. The defaults are those of the configuration `files`.

    Args:
        workdir: the folder of the run, which serves one `fit`. None is a temporary
            folder, which is removed with the classifier.
        random_state: the seed. None is 0.
        verbose: whether progress and a summary are printed.
        cell: the recurrent cell: "filters", "lru", "lstm", "gru", "rnn", or your own as
            "module:Class" or "FILE.py:Class". None is "lru" if a parameter from
            `num_layers` to `label_smoothing`, without `differences`, is not None, or
            with `early_stopping`; otherwise the number of sequences chooses between
            "filters", which are random and do not have these parameters, and "lru".
        hidden_size: units of the hidden state, or filters. None is 64; of filters,
            1,000.
        num_layers: residual layers of lru.
            None is 2 for lru, and 1 for other cells, which have no other number.
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
        num_epochs: passes over X, of at least 600 updates in all (`min_steps`). None is
            20.
        num_steps: updates. A number replaces `num_epochs`.
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
        early_stopping: whether a part of X is held out, stratified or in whole groups,
            and training ends if its loss has not fallen for some epochs. The network is
            that of the lowest loss, or of the highest accuracy over at least 50.
        n_iter_no_change: the number of these epochs, or of validations if
            `eval_every_steps` is among the settings. At least one checkpoint more than
            that is kept, whatever `keep_checkpoints` is.
        validation_fraction: the share of X, or of the groups, that is held out.
        settings: other settings of `rnnmnist.fit` by their names, such as
            `{"schedule": "constant"}`. Two of them have other defaults than there:
            `placement` is "host", so that a second `fit` compiles nothing if the time
            steps, features, classes, batch size and settings are the same; and
            `eval_every_steps` is an epoch with `early_stopping`, and without it so
            large that only the last step is saved.

    X is real [n, time, features], [n, time] of one feature, or a list of arrays [time,
    features] of different lengths; y is [n], integers, strings or booleans. After
    `fit`, the run is in `workdir_`, its network is `predictor_`, and `n_iter_` is the
    number of epochs. A pickle carries the network, not the sequences.

    >>> import numpy as np, rnnmnist
    >>> y = np.array(["low", "high"])[np.arange(40) % 2]
    >>> X = np.ones((40, 5)) * (y == "high")[:, None]
    >>> X[0, 2] = np.nan
    >>> classifier = rnnmnist.RNNClassifier(missing="forward_fill")
    >>> classifier.fit(X, y).predict(X[:3]).tolist()
    ['low', 'high', 'low']
    """

    classes_: np.ndarray  # [classes], sorted
    n_features_in_: int  # of X [n, time, features]; of X [n, time], its time steps

    def __init__(
        self,
        *,
        workdir: str | Path | None = None,
        random_state: int | None = None,
        verbose: bool = False,
        cell: str | None = None,
        hidden_size: int | None = None,
        num_layers: int | None = None,
        pooling: Literal["last", "mean"] | None = None,
        bidirectional: bool | None = None,
        differences: bool | None = None,
        window: int | None = None,
        stride: int | None = None,
        num_epochs: float | None = None,
        num_steps: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        weight_decay: float | None = None,
        label_smoothing: float | None = None,
        class_weight: Literal["balanced"] | Mapping[Any, float] | None = None,
        missing: Literal["error", "forward_fill", "zero"] = "error",
        normalize: Literal["standardize", "none"] = "standardize",
        early_stopping: bool = False,
        n_iter_no_change: int = 10,
        validation_fraction: float = 0.1,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        # scikit-learn copies these as they are. They are checked in `fit`.
        self.workdir = workdir
        self.random_state = random_state
        self.verbose = verbose
        self.cell = cell
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.pooling = pooling
        self.bidirectional = bidirectional
        self.differences = differences
        self.window = window
        self.stride = stride
        self.num_epochs = num_epochs
        self.num_steps = num_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.label_smoothing = label_smoothing
        self.class_weight = class_weight
        self.missing = missing
        self.normalize = normalize
        self.early_stopping = early_stopping
        self.n_iter_no_change = n_iter_no_change
        self.validation_fraction = validation_fraction
        self.settings = settings

    def fit(self, X: Any, y: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Trains on all sequences, or all but those that early stopping holds out.

        Groups, such as the subject of each sequence, are held out as a whole. With
        random filters, each of them is left out in the validation.

        Raises:
            ValueError, TypeError: if X or y fail the checks of scikit-learn.
            UserError: if a parameter or a list is invalid, or the workdir has a run.
            RunError: as `rnnmnist.fit`.
        """
        # A clone, since scikit-learn keeps facts about X, and the training can fail.
        inputs, y = clone(self)._check(X, y=y)
        check_classification_targets(y)
        classes, labels = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise ValueError("y: has 1 class; at least 2 are needed")
        names = classes.astype(str)
        arguments = self._fit_arguments(classes)
        is_held_out = np.zeros(len(labels), bool)
        if self._check_bool("early_stopping"):
            is_held_out = self._hold_out(labels, groups)
            self._add_early_stopping(arguments, is_held_out)
        settings = {name: arguments[name] for name in arguments if name in FIT_SETTINGS}
        network = choose_network(configure(settings), len(labels)).model
        if network.fitting == "gradient":
            arguments.setdefault("eval_every_steps", NEVER)
        folder = _Folder() if self.workdir is None else None
        workdir = parse_folder(str(folder.path / "run" if folder else self.workdir))
        if list_steps(workdir):
            raise UserError(
                f"workdir: {workdir} has a run, and serves one fit; name another folder"
            )
        fit(inputs, names[labels], groups=groups, workdir=workdir, **arguments)
        trained = list_steps(workdir)[-1]
        step = "best"
        if 0 < is_held_out.sum() < MIN_VALIDATION_EXAMPLES:
            step = str(lowest_loss(workdir, trained)[0])
        self._restore(workdir, folder, step, self.cell)
        config, task = self.predictor_.config, self.predictor_.task
        self.n_iter_ = math.ceil(
            trained * config.train.batch_size / task.examples["train"]
        )
        self.classes_ = classes
        self._check(X, y=y)  # scikit-learn keeps facts about X in the classifier
        if getattr(inputs, "ndim", 3) == 3:
            self.n_features_in_ = task.features
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Returns the probability of each class, float32 [n, classes]."""
        check_is_fitted(self)
        probabilities = self.predictor_.classify(self._check(X))
        names = self.predictor_.task.classes
        order = [names.index(name) for name in self.classes_.astype(str)]
        return probabilities[:, order]

    def predict(self, X: Any) -> np.ndarray:
        """Returns the most probable class of each sequence, [n]."""
        probabilities = self.predict_proba(X)  # refuses an estimator without a fit
        return self.classes_[probabilities.argmax(axis=1)]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.input_tags.allow_nan = self.missing in ("forward_fill", "zero")
        return tags

    def _fit_arguments(self, classes: np.ndarray) -> dict[str, Any]:
        """Returns keyword arguments of `rnnmnist.fit`, without early stopping."""
        parameters = self.get_params(deep=False)
        arguments: dict[str, Any] = {
            "verbose": self._check_bool("verbose"),
            "validation": False,
            "seed": self._check_seed(),
            "placement": "host",
        }
        for name, value in parameters.items():
            if name in FIT_SETTINGS and value is not None:
                arguments[name] = value
        if self.num_steps is not None:
            arguments.pop("num_epochs", None)
        if self.class_weight is None:
            arguments["class_weight"] = "none"
        elif isinstance(self.class_weight, Mapping):
            # The classes of a run are texts.
            text_of = dict(zip(classes.tolist(), classes.astype(str), strict=True))
            arguments["class_weight"] = {
                text_of.get(label, label): weight
                for label, weight in self.class_weight.items()
            }
        return arguments | self._other_settings()

    def _check_bool(self, name: str) -> bool:
        """Returns a parameter that must be a boolean, or 1 or 0, as in scikit-learn."""
        value = to_python(getattr(self, name))
        if not isinstance(value, int) or value not in (0, 1):
            raise UserError(f"{name}: must be {TYPES[bool]}, not {format_value(value)}")
        return bool(value)

    def _check_seed(self) -> int:
        """Returns the seed that `random_state` stands for."""
        if self.random_state is None:
            return 0
        setting = FIT_SETTINGS["seed"]._replace(name="random_state")
        seed: int = setting.check(self.random_state)
        return seed

    def _other_settings(self) -> dict[str, Any]:
        """Returns the parameter `settings`, whose names are checked."""
        if self.settings is None:
            return {}
        if not isinstance(self.settings, Mapping):
            raise UserError(
                "settings: must be a mapping from names to values, not "
                f"{format_value(self.settings)}"
            )
        parameters = self.get_params(deep=False)
        known = [*FIT_SETTINGS, *parameters]
        for name in ("columns", "features"):  # X has no names
            known.remove(name)
        for name in map(str, self.settings):
            check_name(name, known, f"settings: {name}", LISTED_WITH_SECTIONS)
            parameter = PARAMETER_OF.get(name, name)
            if parameter in parameters:
                raise UserError(
                    f"settings: {name}: has a parameter of the classifier; pass "
                    f"{parameter}=VALUE"
                )
        return dict(self.settings)

    def _hold_out(self, labels: np.ndarray, groups: ArrayLike | None) -> np.ndarray:
        """Returns which sequences validate, bool [n]."""
        fraction = self.validation_fraction
        if not isinstance(fraction, numbers.Real) or not 0 < float(fraction) < 1:
            raise ValueError(f"validation_fraction: {fraction!r} is not in (0, 1)")
        seed = self._check_seed()
        if groups is None:
            return hold_out_sequences(labels, float(fraction), seed)
        return hold_out_groups(labels, groups, float(fraction), seed)

    def _add_early_stopping(
        self,
        arguments: dict[str, Any],
        is_held_out: np.ndarray,
    ) -> None:
        """Adds a split and a patience to the arguments of `rnnmnist.fit`."""
        if str(self.cell) in CLOSED_FORM_CELLS:
            raise UserError(
                f"early_stopping: is for training by gradients only, and cell="
                f"{self.cell} is fitted in closed form; set early_stopping=False"
            )
        patience = self.n_iter_no_change
        if not isinstance(patience, numbers.Integral) or int(patience) < 1:
            raise ValueError(f"n_iter_no_change: {patience!r} is no integer above 0")
        arguments["split"] = np.where(is_held_out, "validation", "train")
        arguments["patience"] = int(patience)
        # That of the lowest loss, and those of the validations after it.
        needed = int(patience) + 1
        given = arguments.get("keep_checkpoints", needed)
        given = FIT_SETTINGS["keep_checkpoints"].check(given)
        arguments["keep_checkpoints"] = max(given, needed)
        if "eval_every_steps" not in (self.settings or {}):
            count = int((~is_held_out).sum())
            batch_size = FIT_SETTINGS["batch_size"].check(self.batch_size)
            if batch_size is None:
                batch_size = default_batch_size(count)
            arguments["eval_every_steps"] = max(1, round(count / batch_size))

    def _check(self, X: Any, **y: Any) -> Any:
        """Checks arrays as scikit-learn does, with y in `fit`; keeps lists."""
        FIT_SETTINGS["missing"]._replace(name="missing").check(self.missing)
        for name, values in {"X": X, **y}.items():
            refuse_masked(name, values)
        if y:
            shape: tuple[int, ...] = getattr(X, "shape", ())
            refuse_label_shape(y["y"], shape[1] if len(shape) > 1 else 0)
        if isinstance(X, list | tuple) and any(
            hasattr(item, "ndim") or np.ndim(item) > 1 for item in X
        ):
            if not y:
                return X
            check_consistent_length(X, y["y"])
            self.__dict__.pop("feature_names_in_", None)
            return X, column_or_1d(y["y"], warn=True)
        checked = validate_data(
            self,
            X,
            **y,
            reset=bool(y),
            allow_nd=True,
            ensure_2d=getattr(X, "ndim", 2) != 3,  # then the width is compared
            ensure_all_finite="allow-nan",
        )
        allows_nan = self.__sklearn_tags__().input_tags.allow_nan
        if not allows_nan and np.isnan(checked[0] if y else checked).any():
            raise ValueError(
                'X: contains NaN; set missing="forward_fill", which repeats the last '
                'value of the feature, or missing="zero"'
            )
        return checked

    def _restore(
        self, workdir: Path, folder: _Folder | None, step: str, cell: str | None
    ) -> None:
        """Restores the network of a run, and keeps its checkpoint for a pickle.

        The cell is the one that `fit` has named.
        """
        self.workdir_ = workdir
        self.predictor_ = Predictor(workdir, step, cell=cell)
        self._cell = self.predictor_.config.model.cell
        self._folder = folder
        step_folder = str(self.predictor_.checkpoint_step)
        files = network_files(workdir / step_folder)
        self._files = {f"{step_folder}/{name}": files[name] for name in files}

    def __getstate__(self) -> dict[str, Any]:
        """Returns the attributes but the network and the folder."""
        left_out = ("predictor_", "_folder")
        state = super().__getstate__().items()
        return {name: value for name, value in state if name not in left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Writes the checkpoint to a temporary folder, and restores the network."""
        super().__setstate__(state)
        if "_files" in state:
            folder = _Folder()
            for name, content in self._files.items():
                path = folder.path / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            self._restore(folder.path, folder, "best", self._cell)


def hold_out_sequences(y: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Returns which sequences validate, bool [n]: a stratified part of them."""
    # At least one of each class.
    size = max(math.ceil(fraction * len(y)), y.max() + 1)
    splitter = StratifiedShuffleSplit(1, test_size=size, random_state=seed)
    train = next(splitter.split(y, y))[0]
    is_held_out = np.ones(len(y), bool)
    is_held_out[train] = False
    for label in np.setdiff1d(y, y[train]):  # if the part is large and the class small
        is_held_out[np.argmax(y == label)] = False
    return is_held_out


def hold_out_groups(
    y: np.ndarray, groups: ArrayLike, fraction: float, seed: int
) -> np.ndarray:
    """Returns which sequences validate, bool [n]: those of a random part of the groups.

    It is that of scikit-learn's `GroupShuffleSplit`, without groups that have the last
    training sequences of a class, which others replace.
    """
    check_consistent_length(y, groups)
    counts, codes = count_in_groups(y, column_or_1d(groups))
    size = math.ceil(fraction * len(counts))
    kept = counts.sum(axis=0)
    held_out = list[int]()
    for group in check_random_state(seed).permutation(len(counts)):
        if len(held_out) < size and not takes_last(counts[group], kept):
            held_out.append(group)
            kept = kept - counts[group]
    if not held_out:
        raise ValueError(
            f"groups: none of the {len(counts)} groups can be held out, or a class "
            "would have no training sequences; set early_stopping=False"
        )
    return np.isin(codes, held_out)
