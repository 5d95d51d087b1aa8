"""Training on arrays, from Python."""

import contextlib
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from rnnmnist.config import fields
from rnnmnist.config.command_line import parse_workdir
from rnnmnist.config.files import find_config, load_config
from rnnmnist.config.schema import FIELDS, Config
from rnnmnist.config.tasks import fit_to_task
from rnnmnist.data import files
from rnnmnist.data.tasks import read_task
from rnnmnist.errors import UserError
from rnnmnist.runtime.compilation import enable_compilation_cache
from rnnmnist.runtime.mesh import set_cpu_devices
from rnnmnist.training.loop import train


def fit(
    inputs: ArrayLike,
    labels: ArrayLike,
    *,
    workdir: str | Path,
    lengths: ArrayLike | None = None,
    split: ArrayLike | None = None,
    feature_names: ArrayLike | None = None,
    **settings: object,
) -> Path:
    """Trains a classifier of sequences, or resumes the run in `workdir`.

    The arrays are saved in `workdir`/data, from which the commands evaluate the run.

    >>> import numpy as np, rnnmnist, tempfile
    >>> labels = np.arange(40) % 2
    >>> inputs = np.ones((40, 5, 1)) * labels[:, None, None]
    >>> folder = tempfile.mkdtemp()
    >>> run = rnnmnist.fit(inputs, labels, workdir=folder, num_steps=20)
    ... # doctest: +ELLIPSIS
    lstm with 128 units on data, ...
    >>> rnnmnist.Predictor(run).classify(inputs[:3]).argmax(-1)
    array([0, 1, 0])

    Args:
        inputs: real [examples, time, features], or [examples, time] of one feature; NaN
            for missing values.
        labels: integers or strings [examples].
        workdir: the folder of the run.
        lengths: integers [examples], the steps before the padding of each sequence; by
            default, all.
        split: strings [examples]: "train", "validation" or "test". By default, all are
            for training, of which a tenth is used for validation.
        feature_names: strings [features].
        **settings: of the configuration `files`, by their names without the section,
            such as `num_steps=1000` for `train.num_steps`.

    Returns:
        The workdir, as `Predictor` and the commands take it.

    Raises:
        UserError: if the arrays or a setting are invalid, or the workdir has the run of
            other arrays or settings.
        RunError: if a loss or gradient is not finite, or a file cannot be written.
    """
    folder = parse_workdir(str(workdir))
    config = _configure(settings)
    sequences = files.from_arrays(
        inputs, labels, lengths, split, feature_names, source="fit"
    )
    classes = np.array(sequences.classes)
    arrays = {
        "inputs": sequences.inputs,
        "labels": classes[np.asarray(sequences.labels)],
        "lengths": sequences.lengths,
        "split": sequences.splits,
        "feature_names": np.array(sequences.feature_names),
    }
    _save(folder / "data", {k: v for k, v in arrays.items() if v is not None})
    config = config.replace({"data.path": str(folder / "data")})
    config = fit_to_task(config, read_task(config.data))
    enable_compilation_cache()
    with contextlib.suppress(RuntimeError):  # jax can have its devices already
        set_cpu_devices(
            config.train.batch_size, config.train.num_devices, config.num_seeds, 1
        )
    train(config, folder)
    return folder


def _configure(settings: dict[str, object]) -> Config:
    by_name = {name.rpartition(".")[2]: name for name in FIELDS}
    short = {name: FIELDS[full] for name, full in by_name.items()}
    for name in settings:
        fields.find(name, short, f"fit: {name}")
    config = load_config(find_config("files"))
    return config.replace({by_name[name]: value for name, value in settings.items()})


def _save(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """Saves arrays as .npy files in a new folder, or compares them with an old one."""
    if folder.exists():
        names = {path.stem for path in folder.glob("*.npy")}
        if names != arrays.keys() or not all(
            _equal(folder / f"{name}.npy", array) for name, array in arrays.items()
        ):
            raise UserError(
                f"fit: workdir: {folder.parent} has the run of other arrays; name "
                "another workdir"
            )
        return
    folder.mkdir(parents=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)


def _equal(path: Path, array: np.ndarray) -> bool:
    saved = np.load(path, mmap_mode="r")
    same_nan = array.dtype.kind == "f"
    return saved.dtype == array.dtype and np.array_equal(saved, array, same_nan)
