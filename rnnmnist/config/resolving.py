"""Resolves a user's `Config` into the complete `RunConfig` of a run.

In a `Config`, None may select the default. In a `RunConfig`, these defaults have been
filled in for the run's task, so None means that an option, such as early stopping, is
off. Device settings (number, precision, placement) are resolved where they are used, so
a run can continue on another machine.
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar

from rnnmnist.config.functions import Function, import_function, short_name
from rnnmnist.config.schema import (
    DEFAULT_BATCH,
    DEFAULT_FILTERS,
    DEFAULT_LAYERS,
    DEFAULT_SEQUENCE_UNITS,
    DEFAULT_STEPS,
    DEFAULT_UNITS,
    DEFAULT_WARMUP,
    DEFAULT_WEIGHT_DECAY,
    GRADIENT,
    IMAGES,
    LONG_SEQUENCE,
    LONG_WINDOW,
    REPLACED_CONDITIONS,
    SEQUENCES,
    SETTINGS,
    VALIDATION,
    Config,
    ModelConfig,
    TrainConfig,
    is_custom,
)
from rnnmnist.config.settings import ConfigSection
from rnnmnist.config.tasks import Task
from rnnmnist.errors import UserError, format_value

AnyConfig = TypeVar("AnyConfig", bound=Config)

# The annotations in these classes only remove None from the types of inherited fields.
# The declarations and defaults are inherited.


class RunModelConfig(ModelConfig):
    """Complete model settings of a run."""

    hidden_size: int
    num_layers: int
    window: int
    stride: int
    deltas: bool

    def count_windows(self, time_steps: int) -> int:
        """Returns the number of windows in a sequence with this many time steps."""
        return math.ceil(time_steps / self.stride)

    @property
    def description(self) -> str:
        """The network in words: `lru with 64 units` or `1,000 random filters`."""
        if self.network is not None:
            return short_name(self.network)
        plural = "s" if self.hidden_size > 1 else ""
        if self.is_closed_form:
            return f"{self.hidden_size:,} random filter{plural}"
        text = f"{self.hidden_size:,} unit{plural}"
        if self.num_layers > 1:
            text = f"{self.num_layers} layers of {text}"
        if self.bidirectional:
            text += " in each direction"
        if self.window > 1:
            text += f", windows of {self.window} time steps, stride {self.stride}"
        return f"{short_name(self.cell)} with {text}"


class RunTrainConfig(TrainConfig):
    """Complete training settings of a run, whose length is given by `num_steps`.

    Explicit class weights have one pair for each class, in the order of `Task.classes`.
    """

    batch_size: int
    num_steps: int
    log_every_steps: int
    eval_every_steps: int
    warmup_fraction: float
    weight_decay: float
    metrics: tuple[Function, ...] | None


class RunConfig(Config):
    """The complete configuration of a run, stored in its checkpoints."""

    model: RunModelConfig
    train: RunTrainConfig

    @property
    def sharded_batch_size(self) -> int | None:
        """The batch size that must be divisible by the number of batch shards.

        None for a closed-form fit, which pads its examples to a multiple of the number
        of devices.
        """
        return None if self.model.is_closed_form else self.train.batch_size


def resolve(config: Config, task: Task) -> RunConfig:
    """Fills in the defaults of a configuration for a task, and checks the settings.

    Resolving a `RunConfig` again returns an equal `RunConfig`.

    Raises:
        UserError: if settings conflict with each other or with the task.
    """
    run_config = fill_defaults(config, task)
    _reject_unused_settings(config, task)
    _reject_loss_over_time(run_config)
    _reject_two_run_lengths(config.train)
    _reject_unknown_classes(config.train, task)
    _check_sizes(run_config)
    return run_config


def import_functions(config: AnyConfig) -> AnyConfig:
    """Imports the custom functions of a configuration.

    Use it only for a user's configuration. For the configuration of a checkpoint, it
    would run code that the checkpoint's author has chosen.
    """
    return _map_functions(config, import_function)


def functions_to_specs(config: AnyConfig) -> AnyConfig:
    """Replaces imported functions with their specifications, to save them in a file."""
    return _map_functions(config, lambda _, function: str(function))


def _map_functions(
    config: AnyConfig, change: Callable[[str, str | Function], object]
) -> AnyConfig:
    new_values: dict[str, object] = {}
    for name, value in config.flat().items():
        if is_custom(name, value):
            if SETTINGS[name].is_tuple:
                new_values[name] = tuple(change(name, function) for function in value)
            else:
                new_values[name] = change(name, value)
    return config.replace(new_values)


def imported_functions(config: Config) -> list[Function]:
    """Returns the imported functions of a configuration."""
    values: list[object] = []
    for value in config.flat().values():
        values += value if isinstance(value, tuple) else [value]
    return [value for value in values if isinstance(value, Function)]


def fill_defaults(config: Config, task: Task) -> RunConfig:
    """Fills in the defaults of a configuration for a task, without checking them.

    Use it to compare the configurations of two runs, or to read a configuration that
    was saved by an earlier version.
    """
    sections = {
        "model": _fill_model(config.model, task),
        "train": _fill_train(config, task),
    }
    return RunConfig(**vars(config) | sections)


def _fill_model(model: ModelConfig, task: Task) -> RunModelConfig:
    is_image = task.image_shape is not None
    if model.is_closed_form:
        hidden_size = DEFAULT_FILTERS
    elif is_image:
        hidden_size = DEFAULT_UNITS
    else:
        hidden_size = DEFAULT_SEQUENCE_UNITS
    is_long = task.time_steps > LONG_SEQUENCE and not is_image
    window = model.window
    if window is None:
        has_layers = not model.is_closed_form and model.network is None
        window = LONG_WINDOW if is_long and has_layers else 1
    defaults = {
        "hidden_size": hidden_size,
        "num_layers": DEFAULT_LAYERS if model.is_linear else 1,
        "window": window,
        "stride": max(1, window // 4),
        "deltas": model.is_closed_form,
    }
    return RunModelConfig(**defaults | _explicit_values(model))


def _fill_train(config: Config, task: Task) -> RunTrainConfig:
    train, count = config.train, task.examples["train"]
    batch_size, num_steps = train.batch_size, train.num_steps
    if config.model.is_closed_form:  # a single step uses all examples
        batch_size, num_steps = count, 1
    elif batch_size is None:
        batch_size = DEFAULT_BATCH if task.image_shape else default_batch_size(count)
    batch_size = min(batch_size, count)
    if train.num_epochs is not None:
        num_steps = max(train.min_steps, round(train.num_epochs * count / batch_size))
    elif num_steps is None:
        num_steps = DEFAULT_STEPS
    class_weight = train.class_weight
    if isinstance(class_weight, tuple):
        weights = dict(class_weight)
        class_weight = tuple((name, weights.get(name, 1.0)) for name in task.classes)
    run_values = {
        "batch_size": batch_size,
        "num_steps": num_steps,
        "num_epochs": None,
        "class_weight": class_weight,
    }
    eval_every_steps = num_steps // 10
    if train.patience is not None:  # one validation per epoch
        eval_every_steps = round(count / batch_size)
    has_custom_schedule = is_custom("train.schedule", train.schedule)
    has_custom_optimizer = is_custom("train.optimizer", train.optimizer)
    defaults = {
        "log_every_steps": min(100, max(10, num_steps // 100)),
        "eval_every_steps": max(1, eval_every_steps),
        "warmup_fraction": 0.0 if has_custom_schedule else DEFAULT_WARMUP,
        "weight_decay": 0.0 if has_custom_optimizer else DEFAULT_WEIGHT_DECAY,
    }
    return RunTrainConfig(**defaults | _explicit_values(train) | run_values)


def _explicit_values(section: ConfigSection) -> dict[str, Any]:
    return {name: value for name, value in vars(section).items() if value is not None}


def default_batch_size(num_sequences: int) -> int:
    """Returns the power of two nearest to sqrt(num_sequences) / 2, from 16 to 128."""
    exponent = math.ceil(math.log2(num_sequences) / 2 - 1.5)
    return 2 ** min(max(exponent, 4), 7)


def _reject_unused_settings(config: Config, task: Task) -> None:
    """Rejects settings that have no effect in this run.

    A setting that the run does not use is accepted if it has its default value, or the
    value that `fill_defaults` computes.
    """
    values = config.flat()
    conditions = _fulfilled_conditions(config, task)
    used_values = {
        name: value
        for name, value in values.items()
        if conditions.issuperset(SETTINGS[name].applies_to)
    }
    defaults = fill_defaults(Config().replace(used_values), task).flat()
    for name, value in values.items():
        setting = SETTINGS[name]
        if name in used_values or value in (setting.default, defaults[name]):
            continue
        missing = " and ".join(
            condition for condition in setting.applies_to if condition not in conditions
        )
        raise UserError(
            f"{name}: has no effect without {missing}; remove {name}={value}, or use a "
            "configuration that does not set it"
        )


def _fulfilled_conditions(config: Config, task: Task) -> set[str]:
    """Returns the conditions in `Setting.applies_to` that a run fulfils."""
    conditions = {f"data.view={config.data.view}", f"model.cell={config.model.cell}"}
    conditions.add(SEQUENCES if task.image_shape is None else IMAGES)
    if not config.model.is_closed_form:
        conditions.add(GRADIENT)
    if task.examples["validation"]:
        conditions.add(VALIDATION)
    for name, value in config.flat().items():
        if name in REPLACED_CONDITIONS and not is_custom(name, value):
            conditions.add(REPLACED_CONDITIONS[name])
    return conditions


def _reject_loss_over_time(config: RunConfig) -> None:
    if config.train.loss == "every_step" and config.model.reads_whole_sequences:
        raise UserError(
            "train.loss: every_step requires logits after each time step, but a "
            "bidirectional or custom network returns logits only after the last; "
            "set train.loss=last"
        )


def _reject_two_run_lengths(train: TrainConfig) -> None:
    if train.num_epochs is not None and train.num_steps is not None:
        raise UserError(
            f"train.num_epochs: must not be set together with train.num_steps="
            f"{train.num_steps}; remove one"
        )


def _reject_unknown_classes(train: TrainConfig, task: Task) -> None:
    """Rejects weights for unknown classes, unless every class of the task has a weight.

    If every class has a weight, additional classes are allowed, as in scikit-learn:
    they may be missing from a fold in cross-validation. Otherwise, an unknown class is
    probably a misspelt name.
    """
    if not isinstance(train.class_weight, tuple):
        return
    names = {name for name, _ in train.class_weight}
    classes = set(task.classes)
    unknown_names = sorted(names - classes)
    if not unknown_names or names >= classes:
        return
    raise UserError(
        f"train.class_weight: {format_value(unknown_names[0])} is not a class; the "
        f"classes are {format_value(task.classes)}"
    )


def _check_sizes(config: RunConfig) -> None:
    """Rejects gaps between windows, and example counts that overflow 32 bits."""
    model, train = config.model, config.train
    if model.stride > model.window:
        raise UserError(
            f"model.stride: must be at most model.window={model.window}, not "
            f"{model.stride}; lower it, or raise model.window"
        )
    if train.batch_size * train.num_steps >= 2**31:
        max_steps = (2**31 - 1) // train.batch_size
        raise UserError(
            f"train.num_steps: must be at most {max_steps} if train.batch_size="
            f"{train.batch_size} (fewer than 2**31 examples), not {train.num_steps}"
        )
