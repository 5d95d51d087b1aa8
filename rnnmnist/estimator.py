"""A classifier of sequences with the interface of scikit-learn."""

import inspect
import math
import numbers
import shutil
import tempfile
import textwrap
import weakref
from collections.abc import Mapping
from dataclasses import make_dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from rnnmnist.config.files import find_config, load_config, parse_folder
from rnnmnist.config.resolving import default_batch_size
from rnnmnist.config.tasks import MIN_VALIDATION_EXAMPLES
from rnnmnist.data.sequences.validation import (
    count_in_groups,
    refuse_masked,
    takes_last,
)
from rnnmnist.errors import UserError
from rnnmnist.inference.predictor import Predictor
from rnnmnist.runs.checkpoint_files import network_files
from rnnmnist.runs.logs import lowest_loss
from rnnmnist.runs.workdir import list_steps
from rnnmnist.training.fit import FIT_SETTINGS, fit

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, clone
    from sklearn.model_selection import StratifiedShuffleSplit
    from sklearn.utils import check_consistent_length, check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data
except ModuleNotFoundError as error:
    raise ImportError("RNNClassifier needs: pip install scikit-learn") from error

# Of which the estimator has others, or gives them scikit-learn's names.
RENAMED = ("seed", "validation", "patience")
SHARED = tuple(name for name in FIT_SETTINGS if name not in RENAMED)
PARAMETERS = [
    *[(name, Any, None) for name in ("workdir", "random_state", "verbose", *SHARED)],
    ("early_stopping", Any, False),
    ("n_iter_no_change", Any, 10),
    ("validation_fraction", Any, 0.1),
]
# Programs that do not depend on the number of sequences, and one checkpoint.
DEFAULTS: dict[str, Any] = {"placement": "host", "eval_every_steps": 2**31 - 1}
_Base: Any = make_dataclass("_Base", PARAMETERS, kw_only=True, eq=False, repr=False)
_Base.__init__.__annotations__.clear()  # all are Any, as the signature would say


class _Folder:
    """A temporary folder that is removed with this object."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="rnnmnist-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


class RNNClassifier(ClassifierMixin, BaseEstimator, _Base):
    """A recurrent network that classifies sequences, for scikit-learn's tools.

    `fit` trains on all of X unless `early_stopping`, as `rnnmnist.fit` does with
    `validation=False`. Its settings are parameters under the same names.

    Args:
        workdir: the folder of the run, which serves one `fit`. None is a temporary
            folder, which is removed with the estimator.
        random_state: the seed. None is 0.
        verbose: whether progress and a summary are printed.
        placement: None is `host`, with which a second `fit` compiles nothing if the
            time steps, features, classes, settings and batch size are the same.
        num_steps: the updates. None is 20 passes over X (`num_epochs`), at least 600
            updates (`min_steps`).
        eval_every_steps: None saves the last step only, or validates in each epoch.
        class_weight: "balanced", or a mapping from classes to weights.
        early_stopping: whether a part of X is held out, stratified or in whole groups,
            and training ends if its loss has not fallen for some epochs. The network is
            that of the lowest loss, or of the highest accuracy over at least 50.
        n_iter_no_change: the number of these epochs, or of validations if
            `eval_every_steps` is given. As many checkpoints are kept, and one.
        validation_fraction: the share of X, or of the groups, that is held out.

    X is real [n, time, features], [n, time] of one feature, or a list of arrays [time,
    features] of different lengths; y is [n], integers, strings or booleans. After
    `fit`, the run is in `workdir_`, its network is `predictor_`, and `n_iter_` is the
    number of epochs. A pickle carries the network, not the sequences.

    >>> import numpy as np, rnnmnist
    >>> y = np.array(["low", "high"])[np.arange(40) % 2]
    >>> X = np.ones((40, 5)) * (y == "high")[:, None]
    >>> X[0, 2] = np.nan
    >>> classifier = rnnmnist.RNNClassifier(missing="forward_fill", num_steps=100)
    >>> classifier.fit(X, y).predict(X[:3]).tolist()
    ['low', 'high', 'low']
    """

    classes_: np.ndarray  # [classes], sorted
    n_features_in_: int  # of X [n, time, features]; of X [n, time], its time steps

    def fit(self, X: Any, y: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Trains on all sequences, or all but those that early stopping holds out.

        Raises:
            ValueError, TypeError: if X or y fail the checks of scikit-learn.
            UserError: if a parameter or a list is invalid, or the workdir has a run.
            RunError: as `rnnmnist.fit`.
        """
        inputs, y = clone(self)._check(X, y=y)
        check_classification_targets(y)
        classes, indices = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise ValueError("y: has 1 class; at least 2 are needed")
        names = classes.astype(str)
        settings = self._settings(dict(zip(classes.tolist(), names, strict=True)))
        if self.early_stopping:
            settings = self._stop_early(settings, indices, groups)
        folder = _Folder() if self.workdir is None else None
        workdir = parse_folder(str(folder.path / "run" if folder else self.workdir))
        if list_steps(workdir):
            raise UserError(
                f"workdir: {workdir} has a run, and serves one fit; name another folder"
            )
        fit(
            inputs,
            names[indices],
            workdir=workdir,
            verbose=bool(self.verbose),
            validation=False,
            **DEFAULTS | settings,
        )
        trained = list_steps(workdir)[-1]
        count = list(settings.get("split", ())).count("validation")
        is_few = 0 < count < MIN_VALIDATION_EXAMPLES
        step = str(lowest_loss(workdir, trained)[0]) if is_few else "best"
        self._restore(workdir, folder, step, settings.get("cell"))
        config, task = self.predictor_.config, self.predictor_.task
        self.n_iter_ = math.ceil(
            trained * config.train.batch_size / task.examples["train"]
        )
        self.classes_ = classes
        self._check(X, y=y)  # sets what scikit-learn keeps of X, now that it is trained
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

    def _settings(self, name_of: Mapping[Any, str]) -> dict[str, Any]:
        """Returns the settings of `rnnmnist.fit`, for classes with these names."""
        given = {name: getattr(self, name) for name in SHARED}
        given["seed"] = self.random_state
        settings = {name: value for name, value in given.items() if value is not None}
        if isinstance(self.class_weight, Mapping):
            settings["class_weight"] = {
                name_of.get(label, label): weight
                for label, weight in self.class_weight.items()
            }
        return settings

    def _stop_early(
        self, settings: dict[str, Any], y: np.ndarray, groups: ArrayLike | None
    ) -> dict[str, Any]:
        """Returns the arguments of `rnnmnist.fit` with a split, and with patience."""
        fraction, patience = self.validation_fraction, self.n_iter_no_change
        if not isinstance(fraction, numbers.Real) or not 0 < float(fraction) < 1:
            raise ValueError(f"validation_fraction: {fraction!r} is not in (0, 1)")
        if not isinstance(patience, numbers.Integral) or int(patience) < 1:
            raise ValueError(f"n_iter_no_change: {patience!r} is no integer above 0")
        seed = self.random_state or 0
        if groups is None:
            is_held_out = hold_out_sequences(y, float(fraction), seed)
        else:
            is_held_out = hold_out_groups(y, groups, float(fraction), seed)
        split = np.where(is_held_out, "validation", "train")
        count = int((~is_held_out).sum())
        batch_size = settings.get("batch_size", default_batch_size(count))
        every = {"eval_every_steps": max(1, round(count / batch_size))}
        kept = {"patience": int(patience), "keep_checkpoints": int(patience) + 1}
        return every | settings | kept | {"split": split, "groups": groups}

    def _check(self, X: Any, **y: Any) -> Any:
        """Checks arrays as scikit-learn does, with y in `fit`; keeps lists."""
        for name, values in {"X": X, **y}.items():
            refuse_masked(name, values)
        if isinstance(X, list | tuple) and any(
            hasattr(item, "ndim") or np.ndim(item) > 1 for item in X
        ):
            if not y:
                return X
            check_consistent_length(X, y["y"])
            self.__dict__.pop("feature_names_in_", None)
            return X, column_or_1d(y["y"], warn=True)
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


def hold_out_sequences(y: np.ndarray, fraction: float, seed: Any) -> np.ndarray:
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
    y: np.ndarray, groups: ArrayLike, fraction: float, seed: Any
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


def _add_settings(doc: str) -> str:
    """Adds the parameters that a docstring has not, with what None stands for."""
    recipe = load_config(find_config("files")).flat()
    for name in SHARED:
        if f"    {name}: " not in doc:
            setting = FIT_SETTINGS[name]
            text = f"    {name}: {setting.help}"
            value = recipe[setting.name]
            if value is None:
                value = setting.by_default
            if value is not None:
                text += f". None is {value}."
            lines = textwrap.fill(text, width=84, subsequent_indent=" " * 8)
            doc = doc.replace("\n\nX is real", f"\n{lines}\n\nX is real")
    return doc


RNNClassifier.__doc__ = _add_settings(inspect.getdoc(RNNClassifier) or "")
