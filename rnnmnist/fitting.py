"""Training from Python: `fit` for arrays and tables, `train` for configurations."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from rnnmnist.config.files import parse_folder
from rnnmnist.config.recipes import Request, load_config_by_name
from rnnmnist.config.schema import IMAGES, SETTINGS, Config, DataConfig
from rnnmnist.config.settings import Setting, find_setting
from rnnmnist.data.datasets import DataSource, open_data_source
from rnnmnist.data.sequences.reading import read_memory, to_dataset
from rnnmnist.errors import UserError, convert_errors, warn_about_data
from rnnmnist.model import Model
from rnnmnist.runtime.compilation import enable_compilation_cache
from rnnmnist.runtime.signals import stop_on_interrupt
from rnnmnist.training.resume import open_run
from rnnmnist.training.run import train_and_evaluate
from rnnmnist.training.validation import Callback

# Settings of `train`, by their names without the section.
TRAIN_SETTINGS = {name.rpartition(".")[2]: SETTINGS[name] for name in SETTINGS}
# Settings of `fit`, which exclude settings for images and paths.
FIT_SETTINGS = {
    name: setting
    for name, setting in TRAIN_SETTINGS.items()
    if IMAGES not in setting.applies_to and not setting.is_path and name != "name"
}


@convert_errors()
def train(
    config: str | Path | Config = "embedded",
    *,
    workdir: str | Path | None = None,
    verbose: bool = True,
    callback: Callback | None = None,
    **settings: Any,
) -> Model:
    """Trains the network defined by a configuration, in memory or in a workdir.

    This function does the same as the command `rnnmnist train`, but only in a single
    process. It handles the workdir, interrupts, JAX and logging like `rnnmnist.fit`.

    To train the network of `configs/default.py` for fewer steps::

        model = rnnmnist.train("default", num_steps=430)

    Args:
        config: name of a shipped configuration, such as `default`; path to a
            configuration file, which must contain `/` or end in `.py`; or a `Config`.
        workdir: see `rnnmnist.fit`.
        verbose: see `rnnmnist.fit`.
        callback: see `rnnmnist.fit`.
        **settings: settings that override the configuration. Omit their section:
            `num_steps=1000` sets `train.num_steps`.

    Returns:
        The network from the best checkpoint.

    Raises:
        UserError, RunError, KeyboardInterrupt: see `rnnmnist.fit`.
    """
    request = Request(
        config if isinstance(config, Config) else load_config_by_name(config),
        to_full_names(settings, TRAIN_SETTINGS),
        has_callback=callback is not None,
    )
    return _train(
        request, workdir, open_data_source, verbose=verbose, callback=callback
    )


@convert_errors()
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

    If `workdir` is None, no run files are written, and you can save the network with
    `Model.save`. Otherwise, the arrays and checkpoints are saved in the workdir. A
    second call to `fit` with the same arguments resumes the run, and all `rnnmnist`
    commands accept the workdir.

    After an interrupt (SIGINT, from Ctrl-C or a notebook's stop button), `fit` trains
    until the next log line (every `log_every_steps` steps), saves a checkpoint if there
    is a workdir, and raises `KeyboardInterrupt`. After a second interrupt, it raises
    `KeyboardInterrupt` as soon as the current call to a compiled program returns.
    Outside the main thread, `fit` does not handle signals. It never handles SIGTERM;
    `docs/reliability.md` shows how to turn SIGTERM into an interrupt.

    `fit` changes only the following global state:

    - If JAX has not initialized its devices, `fit` sets the number of CPU devices. If
      there are several seeds and JAX is older than 0.11, `fit` also sets the
      environment variable `NPROC`.
    - Unless JAX's compilation cache is disabled, `fit` configures it to cache every
      program. If no cache folder is set, `fit` sets a default folder. If the folder is
      not writable, `fit` disables the cache.
    - `fit` registers a JAX listener that adds up compilation times.

    `fit` computes in float32 with JAX's default configuration, even if your process has
    changed the configuration. Callbacks also run with the default configuration.

    >>> import numpy as np, rnnmnist
    >>> labels = np.arange(40) % 2
    >>> noise = np.random.default_rng(0).normal(size=(40, 5, 1))
    >>> inputs = noise + 5 * labels[:, None, None]
    >>> model = rnnmnist.fit(inputs, labels, verbose=False)
    >>> model.classify(inputs[:3]).argmax(-1)
    array([0, 1, 0])

    Args:
        inputs: real array of shape [examples, time, features]; real array of shape
            [examples, time], for a single feature; list of arrays of different lengths;
            or table, such as a pandas or polars DataFrame. Missing values are NaN. A
            table has the same columns as a CSV file; they replace the other array
            arguments.
        labels: integers, booleans or strings, shape [examples].
        workdir: run folder. If None, the network is trained in memory.
        lengths: number of time steps without padding for each example: integers, shape
            [examples]. None means that there is no padding.
        split: "train", "validation" or "test" for each example: strings, shape
            [examples]. If None, all examples are in "train". If there are no
            "validation" examples, random filters are validated by leave-one-out, and
            trained networks on a tenth of the training sequences. The tenth is not held
            out if `validation` is False, or if there are "test" examples and the tenth
            contains fewer than 50 sequences.
        groups: group of each example, such as its subject: integers or strings, shape
            [examples]. Whole groups are held out for validation. For random filters,
            one group is left out at a time.
        feature_names: strings, shape [features]. The setting `features` selects
            features by these names. If no names are passed and an array has more
            features than time steps, `fit` warns that its axes may be swapped.
        verbose: whether to print progress and a summary. Warnings do not depend on this
            argument: warnings about the data are issued as `rnnmnist.DataWarning`, and
            all others are logged by the logger `rnnmnist`.
        callback: function that is called after each validation with its metrics, as in
            the log (`step`, `loss`, `accuracy` and more). If there is a workdir, the
            checkpoint is saved before the call. If the callback returns True, training
            stops and the network is evaluated; in a workdir, the same call to `fit`
            then resumes training. Exceptions propagate, but an `OSError` for a file is
            converted to a `UserError` or `RunError`. The callback is never called for
            random filters or for runs without a validation split.
        **settings: settings without their section: `num_steps=1000` sets
            `train.num_steps`. They override a shipped configuration: `filters` for
            fewer than 2,000 training sequences (500 if no feature has more than two
            values), and `trained` otherwise. The configuration is also `trained` if you
            pass a callback or a setting that applies only to training by gradient
            descent. If you set `cell`, the cell alone determines the configuration.
            `class_weight` also accepts a mapping from classes to weights; classes that
            are missing from the mapping have weight 1. `cell`, `network`, `loss`,
            `optimizer`, `schedule`, `metrics` and `augment` also accept Python
            functions.

    Returns:
        The network from the best checkpoint.

    Raises:
        UserError: if an array or a setting is invalid, the workdir contains a run with
            different arrays or settings, or this process was forked from a process that
            has trained or loaded a network.
        RunError: if a loss, gradient or parameter is not finite, or a run file cannot
            be read or written.
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
    # Training on an array with swapped axes raises no error, so warn about the shape.
    shape: tuple[int, ...] = getattr(inputs, "shape", ())
    if feature_names is None and len(shape) == 3 and shape[2] > shape[1]:
        warn_about_data(
            f"inputs: {shape} has more features than time steps; if the axes are "
            "[examples, features, time], pass inputs.swapaxes(1, 2)"
        )
    source = DataSource(
        sequences.count_training_sequences(),
        functools.partial(to_dataset, "arrays", sequences),
        sequences.has_binary_features,
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
    open_data_source: Callable[[DataConfig], DataSource],
    *,
    verbose: bool,
    callback: Callback | None,
    arrays: Mapping[str, ArrayLike] = {},
) -> Model:
    """Trains or resumes a run, and returns the network from its best checkpoint."""
    if not (callback is None or callable(callback)):
        raise UserError("callback: must be a function of the metrics, or None")
    folder = None if workdir is None else parse_folder(workdir)
    with open_run(request, folder, open_data_source) as run:
        if arrays:
            run.record.save_arrays(arrays)
        enable_compilation_cache()
        train_and_evaluate(run, stop_on_interrupt(), verbose=verbose, callback=callback)
    return Model(run.record, "best", run.config.model.custom_functions, run.dataset)


def to_full_names(
    settings: Mapping[str, object], known_settings: Mapping[str, Setting]
) -> dict[str, object]:
    """Adds the section to each setting's name, as in `train.num_steps`."""
    return {
        find_setting(name, known_settings).name: value
        for name, value in settings.items()
    }
