"""A classifier of sequences with the interface of scikit-learn."""

import contextlib
import dataclasses
import numbers
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from rnnmnist.config.files import parse_folder
from rnnmnist.errors import UserError
from rnnmnist.inference.predictor import Predictor
from rnnmnist.runs.workdir import list_steps
from rnnmnist.training.fit import FIT_SETTINGS, fit

SETTINGS = tuple(name for name in FIT_SETTINGS if name not in ("seed", "validation"))
DEFAULTS: dict[str, Any] = {
    "placement": "host",  # whose programs do not depend on the number of sequences
    "eval_every_steps": 2**31 - 1,  # saves the last step only
}
MAX_SEED = 2**31 - 4096
_Parameters: Any = dataclasses.make_dataclass(
    "_Parameters",
    [
        (name, Any, dataclasses.field(default=None))
        for name in ("workdir", "random_state", "verbose", *SETTINGS)
    ],
    kw_only=True,
    eq=False,
    repr=False,
)


class InvalidValueError(UserError, ValueError):
    """A `UserError` for callers that expect a `ValueError`."""


@contextlib.contextmanager
def _as_value_error() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise InvalidValueError(str(error)) from error


class RNNClassifier(ClassifierMixin, BaseEstimator, _Parameters):
    """A recurrent network that classifies sequences, for scikit-learn's tools.

    `fit` trains on all of X, as `rnnmnist.fit` does with `validation=False`. Every
    parameter is None by default. None stands for the value of `configs/files.py`, and
    for these:

    workdir: the folder of the run, which serves one `fit`. None is a temporary folder,
        which is removed with the estimator.
    random_state: the seed, an integer or a `numpy.random.RandomState`. None is seed 0.
    verbose: whether progress and a summary are printed. None is False.
    placement: None is `host`, with which a second `fit` compiles nothing if the time
        steps, features, classes, settings and number of updates are the same.
    eval_every_steps: None saves the last step only.
    class_weight: "balanced", or a mapping from classes to weights. None weighs none.

    The other parameters are the settings of `rnnmnist.fit` under the same names.

    X is real [n, time, features], [n, time] of one feature, or a list of arrays [time,
    features] of different lengths; y is [n], of any type of labels. After `fit`, the
    run is in `workdir_`, for all commands, and its network is `predictor_`.

    >>> import numpy as np, rnnmnist
    >>> y = np.array(["low", "high"])[np.arange(40) % 2]
    >>> X = np.ones((40, 5)) * (y == "high")[:, None]
    >>> classifier = rnnmnist.RNNClassifier(num_steps=100, hidden_size=8)
    >>> classifier.fit(X, y).predict(X[:3]).tolist()
    ['low', 'high', 'low']
    """

    classes_: np.ndarray  # [classes], sorted
    n_features_in_: int  # of X [n, time, features]; of X [n, time], its time steps
    workdir_: Path
    predictor_: Predictor

    @_as_value_error()
    def fit(self, X: Any, y: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Trains on all sequences.

        Raises:
            InvalidValueError: a `UserError` and a `ValueError`, if the sequences, the
                labels or a parameter are invalid, or the workdir has a run.
        """
        X, y = self._check(X, y=y)
        check_classification_targets(y)
        self.classes_, indices = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise UserError("y: has 1 class; at least 2 are needed")
        names = self.classes_.astype(str)
        if self.workdir is None:
            workdir = self._make_folder() / "sequences"
        else:
            workdir = parse_folder(str(self.workdir))
            if list_steps(workdir):
                raise UserError(
                    f"workdir: {workdir} has a run, and serves one fit; name another "
                    "folder"
                )
        fit(
            X,
            names[indices],
            workdir=workdir,
            groups=groups,
            verbose=bool(self.verbose),
            validation=False,
            **DEFAULTS | self._settings(dict(zip(self.classes_, names, strict=True))),
        )
        self._restore(workdir)
        if getattr(X, "ndim", 3) == 3:
            self.n_features_in_ = self.predictor_.task.features
        return self

    @_as_value_error()
    def predict_proba(self, X: Any) -> np.ndarray:
        """Returns the probability of each class, float32 [n, classes]."""
        check_is_fitted(self)
        found = self.predictor_.classify(self._check(X))
        names = self.predictor_.task.classes
        return found[:, [names.index(name) for name in self.classes_.astype(str)]]

    def predict(self, X: Any) -> np.ndarray:
        """Returns the most probable class of each sequence, [n]."""
        probabilities = self.predict_proba(X)
        return self.classes_[probabilities.argmax(axis=1)]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.input_tags.allow_nan = self.missing in ("forward_fill", "zero")
        return tags

    def _settings(self, name_of: Mapping[Any, str]) -> dict[str, Any]:
        """Returns the settings of `rnnmnist.fit`, for classes with these names."""
        settings = {
            name: value
            for name, value in self.get_params(deep=False).items()
            if name in SETTINGS and value is not None
        }
        if isinstance(self.class_weight, Mapping):  # can have more classes than y
            settings["class_weight"] = {
                name_of[label]: weight
                for label, weight in self.class_weight.items()
                if label in name_of
            }
        if isinstance(self.random_state, numbers.Integral):
            settings["seed"] = int(self.random_state)
        elif self.random_state is not None:
            generator = check_random_state(self.random_state)
            settings["seed"] = int(generator.randint(MAX_SEED))
        return settings

    def _check(self, X: Any, **y: Any) -> Any:
        """Checks arrays as scikit-learn does, with y in `fit`.

        Of a list of sequences, `rnnmnist.fit` and the predictor check the values.
        """
        shapes = {np.shape(one) for one in X} if isinstance(X, list | tuple) else set()
        if len(shapes) > 1 or any(len(shape) == 2 for shape in shapes):
            return (X, column_or_1d(y["y"], warn=True)) if y else X
        allows_nan = self.__sklearn_tags__().input_tags.allow_nan
        return validate_data(
            self,
            X,
            **y,
            reset=bool(y),
            allow_nd=True,
            ensure_2d=getattr(X, "ndim", 2) != 3,  # then the width is compared
            ensure_all_finite="allow-nan" if allows_nan else True,
        )

    def _make_folder(self) -> Path:
        """Makes a temporary folder, in place of an earlier one."""
        if remove := vars(self).get("_remove"):
            remove()
        folder = tempfile.mkdtemp(prefix="rnnmnist-")
        self._remove = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)

    def _restore(self, workdir: Path) -> None:
        self.workdir_ = workdir
        self.predictor_ = Predictor(workdir)

    def __getstate__(self) -> dict[str, Any]:
        """Returns the attributes, with the files of the checkpoint for the network."""
        state = dict(super().__getstate__())
        state.pop("_remove", None)
        if predictor := state.pop("predictor_", None):
            folder = predictor.workdir / str(predictor.checkpoint_step)
            state["_files"] = {
                str(path.relative_to(predictor.workdir)): path.read_bytes()
                for path in folder.rglob("*")
                if path.is_file()
            }
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Writes the checkpoint to a temporary folder, and restores the network."""
        files = state.pop("_files", {})
        super().__setstate__(state)
        if files:
            workdir = self._make_folder()
            for name, content in files.items():
                (workdir / name).parent.mkdir(parents=True, exist_ok=True)
                (workdir / name).write_bytes(content)
            self._restore(workdir)
