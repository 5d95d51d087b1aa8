"""Training from Python, with `fit` on arrays or `train` on a configuration."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from rnnmnist.config.files import parse_folder
from rnnmnist.config.recipes import Request, load_config_by_name
from rnnmnist.config.schema import IMAGE_KINDS, SETTINGS, Config, DataConfig
from rnnmnist.config.settings import Setting, find_setting
from rnnmnist.data.datasets import Source, open_source
from rnnmnist.data.sequences.reading import read_memory, to_dataset
from rnnmnist.errors import (
    UserError,
    errors_as_failures,
    format_value,
    warn_about_data,
)
from rnnmnist.model import Model
from rnnmnist.runtime.compilation import enable_compilation_cache
from rnnmnist.runtime.signals import stop_on_interrupt
from rnnmnist.training.resume import open_run
from rnnmnist.training.run import train_and_evaluate
from rnnmnist.training.validation import Callback

# Settings of `train`, by name without the section.
TRAIN_SETTINGS = {name.rpartition(".")[2]: SETTINGS[name] for name in SETTINGS}
# Settings of `fit`, which apply to runs on arrays.
FIT_SETTINGS = {
    name: setting
    for name, setting in TRAIN_SETTINGS.items()
    if setting.applies_to not in IMAGE_KINDS and not setting.is_path and name != "name"
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
    """Trains the network that a configuration describes, in memory or in a workdir.

    This is the command `rnnmnist train` as a function, limited to a single process. It
    handles the workdir, interrupts, jax and logging like `rnnmnist.fit`.

    To train the network of `configs/default.py` for fewer steps::

        model = rnnmnist.train("default", num_steps=430)

    Args:
        config: name of a shipped configuration, such as `default`; path of a
            configuration file, which contains a separator or `.py`; or a `Config`.
        workdir: see `rnnmnist.fit`.
        verbose: see `rnnmnist.fit`.
        callback: see `rnnmnist.fit`.
        **settings: settings that override the configuration, by name without the
            section, such as `num_steps=1000` for `train.num_steps`.

    Returns:
        The network of the best step.

    Raises:
        UserError, RunError, KeyboardInterrupt: see `rnnmnist.fit`.
    """
    request = Request(
        config if isinstance(config, Config) else load_config_by_name(config),
        to_full_names(settings, TRAIN_SETTINGS),
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
    """Trains a sequence classifier, in memory or in a workdir.

    Without a workdir, no files of the run are written; `Model.save` saves the network.
    With a workdir, the arrays and checkpoints are saved there. Calling `fit` again with
    the same arguments resumes the run, and all `rnnmnist` commands accept the workdir.

    On an interrupt (SIGINT: Ctrl-C, or the stop button of a notebook), training
    continues to the next log line (every `log_every_steps` steps), saves a checkpoint
    if there is a workdir, and raises `KeyboardInterrupt`. A second interrupt raises it
    as soon as the running call of a compiled program returns. Outside the main thread,
    `fit` handles no signals. It never handles SIGTERM; `docs/reliability.md` shows the
    line of code that turns SIGTERM into an interrupt.

    `fit` changes this global state, and nothing else:

    - If jax has not initialized its devices, `fit` sets the number of CPU devices. For
      several seeds with jax before 0.11, it also sets the environment variable `NPROC`.
    - Unless the compilation cache of jax is disabled, `fit` configures it to cache
      every program, in a default folder if none is set. If the folder is not
      writable, `fit` turns the cache off.
    - A jax listener adds up compilation times.

    `fit` computes in float32 with the default configuration of jax, even if the process
    has changed it. Callbacks run under the same defaults.

    >>> import numpy as np, rnnmnist
    >>> labels = np.arange(40) % 2
    >>> noise = np.random.default_rng(0).normal(size=(40, 5, 1))
    >>> inputs = noise + 5 * labels[:, None, None]
    >>> model = rnnmnist.fit(inputs, labels, verbose=False)
    >>> model.classify(inputs[:3]).argmax(-1)
    array([0, 1, 0])

    Args:
        inputs: sequences in one of four forms, with NaN for missing values: real
            [examples, time, features]; real [examples, time] with one feature per time
            step; a list of arrays of different lengths; or a table, such as a pandas or
            polars data frame, with the columns of a .csv file, which then contain the
            other array arguments.
        labels: integers, booleans or strings [examples].
        workdir: run folder. None trains in memory.
        lengths: integers [examples], time steps before the padding. None means no
            padding.
        split: strings [examples]: "train", "validation" or "test". None puts all
            examples in "train". Without "validation" examples, random filters are
            validated by leave-one-out, and trained networks on a tenth of the training
            sequences. No tenth is held out with `validation=False`, or if "test"
            examples are given and the tenth has fewer than 50 sequences.
        groups: integers or strings [examples], such as the subject of each sequence.
            Validation holds out, or leaves out, whole groups.
        feature_names: strings [features]. The setting `features` selects features by
            these names. Without names, an array with more features than time steps
            causes a warning about swapped axes.
        verbose: whether to print progress and a summary. Warnings are not affected:
            warnings about the data are issued as `rnnmnist.DataWarning`, all others
            are logged by the logger `rnnmnist`.
        callback: function called on process 0 after each validation, with the line of
            the log (`step`, `loss`, `accuracy` and more). In a workdir, the checkpoint
            is saved before the call. Return True to stop the run there and evaluate it;
            in a workdir, the same `fit` then resumes training. Exceptions propagate,
            except an `OSError` on a file, which becomes a `UserError` or `RunError`.
            Random filters, and runs without a validation split, never call it.
        **settings: settings by name without the section, such as `num_steps=1000` for
            `train.num_steps`. They override a shipped configuration: `filters` below
            2,000 training sequences (500 if no feature has more than two values),
            otherwise `trained`. Giving a callback, or a setting that only applies to
            training by gradient descent, selects `trained`; `cell` takes precedence
            over all of these. `class_weight` also accepts a mapping from classes to
            weights; other classes have weight 1. `cell`, `network`, `loss`,
            `optimizer`, `schedule`, `metrics` and `augment` also accept Python
            functions.

    Returns:
        The network of the best step.

    Raises:
        UserError: if the arrays or a setting are invalid, the workdir belongs to a run
            with other arrays or settings, or this process was forked from a process
            that has trained or loaded a network.
        RunError: if a loss, gradient or parameter is not finite, or a file of the run
            cannot be read or written.
        KeyboardInterrupt: after an interrupt.
    """
    request = Request(
        None,
        to_full_names(settings, FIT_SETTINGS),
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
    # An array with swapped axes trains without an error, so its shape is checked.
    shape: tuple[int, ...] = getattr(inputs, "shape", ())
    if feature_names is None and len(shape) == 3 and shape[2] > shape[1]:
        warn_about_data(
            f"inputs: {shape} has more features than time steps; if the axes are "
            "[examples, features, time], pass inputs.swapaxes(1, 2)"
        )
    source = Source(
        sequences.count_training_sequences(),
        functools.partial(to_dataset, "arrays", sequences),
        sequences.are_binary,
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
    """Trains or resumes a run, and returns the network of its best step."""
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
    return Model(run.record, "best", run.config.model.user_functions, run.dataset)


def to_full_names(
    settings: Mapping[str, object], known: Mapping[str, Setting]
) -> dict[str, object]:
    """Returns the settings with their full names, such as `train.num_steps`."""
    return {find_setting(name, known).name: value for name, value in settings.items()}
