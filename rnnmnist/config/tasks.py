"""Tasks: what is classified."""

import dataclasses
import math

from rnnmnist.config.schema import LONG, LONG_WINDOW, SETTINGS, Config
from rnnmnist.errors import UserError, did_you_mean, shown

MIN_VALIDATION_EXAMPLES = 50  # with fewer, validation does not select a checkpoint


@dataclasses.dataclass(frozen=True)
class Task:
    """The sequences of a data set and their classes.

    Every checkpoint and result file holds the task, so that a model can be rebuilt from
    its checkpoint alone. The last four are None until the arrays are read. Images are
    not standardized; only those of `mnist5k`, whose splits this package draws, have a
    SHA-256.
    """

    name: str
    time_steps: int  # of the longest sequence
    features: int
    classes: tuple[str, ...]  # in the order of the labels
    # In each of train, validation and test.
    examples: dict[str, int] = dataclasses.field(hash=False)
    image_shape: tuple[int, int] | None = None  # rows, columns; None: no images
    feature_names: tuple[str, ...] = ()
    validation_groups: tuple[str, ...] = ()  # of sequences that are held out by group
    sha256: str | None = None  # of all examples with their labels, lengths and splits
    mean: tuple[float, ...] | None = None  # of each feature, by which it is
    std: tuple[float, ...] | None = None  # standardized; None: it is not
    difference_std: tuple[float, ...] | None = None  # of differences, in units of std

    @property
    def sizes(self) -> str:
        """The sizes of the splits, as text."""
        return " / ".join(f"{count:,}" for count in self.examples.values())

    @property
    def validation_note(self) -> str:
        """What an interval of the validation split does not know; "" if nothing."""
        count = len(self.validation_groups)
        of_groups = f"{count} group{'s' if count > 1 else ''}"
        text = f"; {self.examples['validation']:,} {self.noun} of {of_groups}; "
        return text + "the interval takes them for independent" if count else ""

    @property
    def evaluated_split(self) -> str:
        """The split of the final result: `test`, else `validation`, else `train`."""
        splits = ("test", "validation")
        return next((split for split in splits if self.examples[split]), "train")

    @property
    def noun(self) -> str:
        """The word for several examples."""
        return "sequences" if self.image_shape is None else "images"


def fit_to_task(config: Config, task: Task) -> Config:
    """Returns the resolved configuration of a run on a task, with steps for epochs."""
    for name, value in config.flat().items():
        setting = SETTINGS[name]
        if setting.only not in (None, task.noun) and value != setting.default:
            remedy = f"remove {name}={value}"
            if name == "data.path":
                remedy = f"set --config=files, or {remedy}"
            raise UserError(
                f"{name}: is for {setting.only} only, and {task.name} has {task.noun}; "
                f"{remedy}"
            )
    model = config.model
    if model.forget_bias != 1 and model.cell != "lstm":
        raise UserError(
            f"model.forget_bias: {model.forget_bias} needs model.cell=lstm; remove it"
        )
    weights = config.train.class_weight
    names = {*dict(weights)} if isinstance(weights, tuple) else set()
    unknown = sorted(names - {*task.classes})
    if unknown and not names >= {*task.classes}:  # as scikit-learn
        allowed = f"the classes are {shown(task.classes)}"
        raise UserError(
            f"train.class_weight: names the class {shown(unknown[0])}; "
            f"{did_you_mean(unknown[0], task.classes, allowed)}"
        )
    if config.train.patience is not None and not task.examples["validation"]:
        raise UserError(
            f"train.patience: {config.train.patience} needs a validation split, and "
            f"{task.name} has none; mark sequences with validation, or remove it"
        )
    config = resolve(config, task)
    model = config.model
    if model.window_size > task.time_steps:
        raise UserError(
            f"model.window: must be at most {task.time_steps}, the time steps of "
            f"{task.name}, not {model.window}"
        )
    if model.window_stride > model.window_size:
        raise UserError(
            f"model.stride: must be at most model.window={model.window}, not "
            f"{model.stride}; lower it, or set a larger model.window"
        )
    return config


def batch_for(sequences: int) -> int:
    """Returns the power of two nearest to half the square root, from 16 to 128."""
    return 2 ** min(max(math.ceil(math.log2(sequences) / 2 - 1.5), 4), 7)


def resolve(config: Config, task: Task) -> Config:
    """Returns a configuration whose defaults are those for a task."""
    train = config.train
    count = task.examples["train"]
    default = train.batch if task.image_shape else batch_for(count)
    batch_size = min(train.batch_size or default, count)
    steps = train.total_steps
    if train.num_epochs is not None:
        steps = max(train.min_steps, round(train.num_epochs * count / batch_size))
    is_long = task.image_shape is None and task.time_steps > LONG
    window = config.model.window or (LONG_WINDOW if is_long else 1)
    config = config.replace({"model.window": window})
    weights = train.class_weight
    if isinstance(weights, tuple):
        weights = tuple((name, dict(weights).get(name, 1.0)) for name in task.classes)
    return config.replace(
        {
            "model.num_layers": config.model.layers,
            "model.stride": config.model.window_stride,
            "train.class_weight": weights,
            "train.batch_size": batch_size,
            "train.num_steps": steps,
        }
    )
