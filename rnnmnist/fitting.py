"""Training from Python: of a configuration, or on arrays."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from rnnmnist.config.files import parse_folder
from rnnmnist.config.recipes import Request, load_named
from rnnmnist.config.schema import KINDS_OF_IMAGES, SETTINGS, Config, DataConfig
from rnnmnist.config.settings import Setting, find
from rnnmnist.data.datasets import Source, open_source
from rnnmnist.data.sequences.reading import read_memory, to_dataset
from rnnmnist.errors import (
    UserError,
    errors_as_failures,
    format_value,
    warn_of_data,
)
from rnnmnist.model import Model
from rnnmnist.runtime.compilation import enable_compilation_cache
from rnnmnist.runtime.signals import stop_on_interrupt
from rnnmnist.training.resume import open_run
from rnnmnist.training.run import train_and_evaluate
from rnnmnist.training.validation import Callback

# The settings by their names without the section, which `train` takes.
TRAIN_SETTINGS = {name.rpartition(".")[2]: SETTINGS[name] for name in SETTINGS}
# Those of a run on arrays, which `fit` takes.
FIT_SETTINGS = {
    name: setting
    for name, setting in TRAIN_SETTINGS.items()
    if setting.applies_to not in KINDS_OF_IMAGES
    and not setting.is_path
    and name != "name"
}


@errors_as_failures()
def train(
    config: str | Path | Config = "embedded",
    *,
    workdir: str | Path | None = None,
    verbose: bool = True,
    callback: Callback | None = None,
    **settings: Any,
) -> Model:
    """Trains the network of a configuration, in memory or in a workdir.

    It does what `rnnmnist train` does, in this process alone, and treats the workdir,
    interrupts, jax and logging as `rnnmnist.fit` does.

    This trains the network of `configs/default.py` for fewer steps::

        model = rnnmnist.train("default", num_steps=430)

    Args:
        config: the name of a shipped configuration, such as `default`; a path of one,
            with a separator or with `.py`; or a `Config`.
        workdir: as for `rnnmnist.fit`.
        verbose: as for `rnnmnist.fit`.
        callback: as for `rnnmnist.fit`.
        **settings: other values of settings, by their names without the section, such
            as `num_steps=1000` for `train.num_steps`.

    Returns:
        The network of the best step.

    Raises:
        UserError, RunError, KeyboardInterrupt: as for `rnnmnist.fit`.
    """
    request = Request(
        config if isinstance(config, Config) else load_named(config),
        full_names(settings, TRAIN_SETTINGS),
        has_callback=callback is not None,
    )
    return _train(request, workdir, open_source, verbose=verbose, callback=callback)


@errors_as_failures()
def fit(
    inputs: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    workdir: str | Path | None = None,
    lengths: ArrayLike | None = None,
    split: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    feature_names: ArrayLike | None = None,
    verbose: bool = True,
    callback: Callback | None = None,
    **settings: Any,
) -> Model:
    """Trains a classifier of sequences, in memory or in a workdir.

    Without a workdir, no file is written: `Model.save` keeps the network. With a
    workdir, the arrays and checkpoints are saved in it, the same call resumes the run,
    and all commands work on it.

    After an interrupt (SIGINT, as by Ctrl-C or the stop button of a notebook), training
    continues to its next line (`log_every_steps` updates) and saves, if there is a
    workdir; then `KeyboardInterrupt` is raised. A second interrupt raises it as soon as
    the running call of a compiled program has ended.
    Outside of the main thread, `fit` leaves signals alone. SIGTERM is always the
    caller's; `docs/reliability.md` has the line that makes it such an interrupt.

    If jax has no devices yet, `fit` sets the number of CPU devices (for several seeds
    with jax before 0.11, also the environment variable `NPROC`). Unless you have
    disabled jax's compilation cache, it sets that all programs are cached, and the
    folder if there is none, or, if it cannot be written, that none is. Apart from a
    listener that sums the time of compilation, it changes nothing else of the process.
    It computes with jax's defaults, in float32, also where the process has others; a
    callback is called with them.

    >>> import numpy as np, rnnmnist
    >>> labels = np.arange(40) % 2
    >>> noise = np.random.default_rng(0).normal(size=(40, 5, 1))
    >>> inputs = noise + 5 * labels[:, None, None]
    >>> model = rnnmnist.fit(inputs, labels, verbose=False)
    >>> model.classify(inputs[:3]).argmax(-1)
    array([0, 1, 0])

    Args:
        inputs: real [examples, time, features], or [examples, time] of one feature, or
            a list of arrays of different lengths; NaN for missing values. Or a table
            with the columns of a .csv file, such as a frame of pandas or polars, which
            has the other arrays in its columns.
        labels: integers, booleans or strings [examples].
        workdir: the folder of the run; None trains in memory.
        lengths: integers [examples], the time steps before the padding of each; by
            default, all.
        split: strings [examples]: "train", "validation" or "test". By default, all are
            for training. Without "validation", random filters are validated by leaving
            one sequence out. For a trained network, a tenth of the training sequences
            is used, unless that is fewer than 50 beside a test split, or with
            `validation=False`.
        groups: integers or strings [examples], such as the subject of each. The
            sequences that are held out for validation, or left out, are whole groups.
        feature_names: strings [features], by which the setting `features` can choose
            some. Without them, an array with more features than time steps causes a
            warning that axes may be swapped.
        verbose: whether progress and a summary are printed. Warnings are given in any
            case: of the data as `rnnmnist.DataWarning`, others by the logger
            `rnnmnist`.
        callback: is called on process 0 after each validation, which a run in a workdir
            has saved by then, with its line of the log (`step`, `loss`, `accuracy` and
            others). If it returns True, the run ends there and is evaluated. What it
            raises leaves `fit`, an `OSError` of a file as a `UserError` or `RunError`.
            In a workdir, the same call then trains on. A run without a validation
            split, and a fit of random filters, do not call it.
        **settings: values of settings, by their names without the section, such as
            `num_steps=1000` for `train.num_steps`. They replace those of a shipped
            configuration: `filters` for fewer than 2,000 training sequences (500 if no
            feature has more than two values), otherwise `trained`. `trained` is also
            used if a callback or a setting of training by gradients is given, and
            `cell` decides in any case. `class_weight` can also be a mapping from
            classes to weights. A class that it does not name has the weight 1. `cell`,
            `network`, `loss`, `optimizer`, `schedule`, `metrics` and `augment` can be
            functions of Python.

    Returns:
        The network of the best step.

    Raises:
        UserError: if the arrays or a setting are invalid, or the workdir has the run of
            other arrays or settings, or this process was forked from one that has
            trained or loaded a network.
        RunError: if a loss, a gradient or a parameter is not finite, or a file of the
            run cannot be read or written.
        KeyboardInterrupt: after an interrupt.
    """
    request = Request(
        None,
        full_names(settings, FIT_SETTINGS),
        has_callback=callback is not None,
    )
    data = request.data
    sequences = read_memory(
        inputs,
        data.roles,
        data.feature_names,
        labels=labels,
        lengths=lengths,
        split=split,
        groups=groups,
        feature_names=feature_names,
    )
    # The sizes of the axes tell, since such an array trains without an error.
    shape: tuple[int, ...] = getattr(inputs, "shape", ())
    if feature_names is None and len(shape) == 3 and shape[2] > shape[1]:
        warn_of_data(
            f"inputs: {shape} has more features than time steps; if the axes are "
            "[examples, features, time], pass inputs.swapaxes(1, 2)"
        )
    source = Source(
        sequences.count_training(),
        functools.partial(to_dataset, "arrays", sequences),
        sequences.are_two_valued,
    )
    return _train(
        request,
        workdir,
        lambda _: source,
        verbose=verbose,
        callback=callback,
        arrays=sequences.to_arrays(),
    )


def _train(
    request: Request,
    workdir: str | Path | None,
    open_source: Callable[[DataConfig], Source],
    *,
    verbose: bool,
    callback: Callback | None,
    arrays: Mapping[str, ArrayLike] = {},
) -> Model:
    """Trains, or resumes, a run in this process, and returns its best network.

    A run in a workdir saves the arrays there.
    """
    if callback is not None and not callable(callback):
        raise UserError(
            "callback: must be a function of the validation metrics, not "
            f"{format_value(callback)}"
        )
    folder = None if workdir is None else parse_folder(workdir)
    with open_run(request, folder, open_source) as run:
        if arrays:
            run.record.save_arrays(arrays)
        enable_compilation_cache()
        train_and_evaluate(run, stop_on_interrupt(), verbose=verbose, callback=callback)
    return Model(run.record, "best", run.config.model.named, run.dataset)


def full_names(
    settings: Mapping[str, object], known: Mapping[str, Setting]
) -> dict[str, object]:
    """Returns settings by their full names."""
    return {find(name, known).name: value for name, value in settings.items()}
