"""A run's whole configuration: frozen, typed, and checked once, at the door.

A configuration file is Python with a function `get_config()` that returns a
`Config`. The defaults below are the run of `configs/default.py`; a variant
names what it changes:

    >>> from rnnmnist import Config, TrainConfig
    >>> config = Config(seed=1, train=TrainConfig(num_steps=100))
    >>> config.model.hidden_size
    128
"""

import dataclasses
from typing import Any, Literal

from rnnmnist.config import fields
from rnnmnist.config.fields import Section, setting
from rnnmnist.errors import UserError

ROWS = 28  # of an image, of every data set
# Where data lie, which is a machine's affair and not the run's.
DATA_PATHS = ("data.data_dir", "data.manual_dir")
# Training images of each data set: what bounds a batch, known before any data.
TRAIN_EXAMPLES = {
    "mnist": 55_000,
    "fashion_mnist": 55_000,
    "kmnist": 55_000,
    "mnist5k": 4_000,
}


@dataclasses.dataclass(frozen=True)
class DataConfig(Section):
    """Which images, and where they are."""

    PREFIX = "data."

    name: Literal["mnist", "fashion_mnist", "kmnist", "mnist5k"] = setting(
        "mnist", "the data set; mnist5k ships with the package"
    )
    data_dir: str | None = setting(
        None, "where TFDS prepares data sets (default: TFDS's own choice)"
    )
    manual_dir: str | None = setting(
        None, "a folder that holds the four original .gz files"
    )
    max_shift: int = setting(
        0,
        "training images move by up to so many whole pixels, before all else",
        at_least=0,
        at_most=13,
    )
    max_rotation: float = setting(
        0.0,
        "they turn by up to so many degrees",
        at_least=0,
        at_most=180,
        before=0.0,
    )
    max_scale: float = setting(
        0.0,
        "they grow or shrink, by a factor of up to 1 + this",
        at_least=0,
        at_most=1,
        before=0.0,
    )
    max_shear: float = setting(
        0.0,
        "they slant by up to so many columns a row",
        at_least=0,
        at_most=1,
        before=0.0,
    )
    elastic: float = setting(
        0.0,
        "they bend smoothly: the standard deviation of how far a pixel goes, in pixels "
        "down and in pixels across",
        at_least=0,
        at_most=10,
        before=0.0,
    )
    flip: bool = setting(
        False, "half of them are mirrored, left and right", before=False
    )


@dataclasses.dataclass(frozen=True)
class ModelConfig(Section):
    """The recurrent network."""

    PREFIX = "model."

    cell: Literal["lstm", "gru", "rnn"] = setting("lstm", "the recurrent cell")
    hidden_size: int = setting(
        128, "units of the hidden state", at_least=1, at_most=8192
    )
    forget_bias: float = setting(
        1.0,
        "initial value of the LSTM's forget-gate bias (other cells have none)",
        at_least=-1000,
        at_most=1000,
    )
    initializer: Literal["flax", "tutorial"] = setting(
        "flax",
        "flax: LeCun-normal and orthogonal kernels; tutorial: the fused kernel "
        "Glorot-uniform, read-out weights and bias from N(0, 1)",
    )
    recurrence: Literal["fused", "flax"] = setting(
        "fused",
        "how an LSTM reads the rows, to rounding the same; fused: all gates in one "
        "product, the weights' gradients in one more; flax: nn.scan over Flax's cell, "
        "as other cells always",
        before="flax",
    )
    remat_rows: int | None = setting(
        None,
        "rows to a block, of which the backward pass keeps the start alone and "
        "computes the rest again (default: it keeps everything)",
        at_least=1,
        at_most=ROWS,
        before=None,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.remat_rows is not None and ROWS % self.remat_rows:
            fits = [str(rows) for rows in range(1, ROWS + 1) if ROWS % rows == 0]
            raise UserError(
                f"model.remat_rows: must be one of {', '.join(fits)}, not "
                f"{self.remat_rows}"
            )


@dataclasses.dataclass(frozen=True)
class TrainConfig(Section):
    """How the network is trained, and when the run speaks, validates and saves."""

    PREFIX = "train."

    batch_size: int = setting(
        128, "images in a step, over all devices", at_least=1, at_most=65_536
    )
    num_steps: int = setting(4300, "updates in the whole run", at_least=1)
    loss: Literal["last", "every_row"] = setting(
        "last",
        "the cross-entropy of the answer after the last row; every_row: of that after "
        "each row, in a mean whose weights rise with the row",
        before="last",
    )
    label_smoothing: float = setting(
        0.0,
        "share of each label that all classes get in equal parts",
        at_least=0,
        at_most=0.9,
        before=0.0,
    )
    learning_rate: float = setting(7e-3, "peak learning rate", above=0, at_most=1e38)
    schedule: Literal["constant", "cosine"] = setting(
        "cosine", "the learning rate after the warm-up"
    )
    warmup_fraction: float = setting(
        0.02, "share of the steps in which the rate rises", at_least=0, at_most=1
    )
    weight_decay: float = setting(0.1, "0 is Adam, more is AdamW", at_least=0)
    clip_norm: float = setting(
        1.0, "largest global norm of a gradient; 0 does not clip", at_least=0
    )
    ema_decay: float = setting(
        0.0,
        "what is evaluated and saved is an exponential average of the weights, with "
        "this decay in each update; 0 takes the last weights",
        at_least=0,
        at_most=0.99999,
        before=0.0,
    )
    log_every_steps: int = setting(
        100, "steps to a line of metrics, and in one compiled call", at_least=1
    )
    log_metrics: Literal["mean", "last_batch"] = setting(
        "mean",
        "mean: over the steps since the last line, before each update; "
        "last_batch: the last step's batch, after its update",
    )
    eval_every_steps: int = setting(
        430, "steps to a validation and its checkpoint", at_least=1
    )
    keep_checkpoints: int = setting(
        2, "newest checkpoints kept, besides the best one", at_least=1
    )
    num_devices: int | None = setting(
        None,
        "devices to use, of all processes together (default: the most that can "
        "share seeds and batch; on CPU at most one for each usable core, and 8 a "
        "process)",
        at_least=1,
        at_most=4096,
    )


@dataclasses.dataclass(frozen=True)
class Config(Section):
    """Everything that a run is a function of.

    Raises:
        UserError: when a value has the wrong type or is out of range, naming
            the setting, the value and what is allowed.
    """

    seed: int = setting(
        0, "of weights, data order and distortions", at_least=0, at_most=2**31 - 1
    )
    num_seeds: int = setting(
        1,
        "networks trained at once, the second with seed + 1 and so on",
        at_least=1,
        at_most=4096,
    )
    tutorial_128: bool = setting(
        False, "score the first 128 test images too, as the 2016 tutorial did"
    )
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        train, examples = self.train, TRAIN_EXAMPLES[self.data.name]
        if self.seeds[-1] >= 2**31:
            raise UserError(
                f"seed: must be at most {2**31 - self.num_seeds}, so that "
                f"num_seeds={self.num_seeds} stay below 2**31, not {self.seed}"
            )
        if train.loss == "every_row" and self.model.remat_rows is not None:
            raise UserError(
                "model.remat_rows: must not be set beside train.loss=every_row, which "
                f"keeps what is known after each row, not {self.model.remat_rows}"
            )
        if train.batch_size > examples:
            raise UserError(
                f"train.batch_size: must be at most the {examples} training images "
                f"of {self.data.name}, not {train.batch_size}"
            )
        if train.batch_size * train.num_steps >= 2**31:
            raise UserError(
                f"train.num_steps: {train.num_steps} steps of {train.batch_size} are "
                f"more than 2**31 images; use at most {(2**31 - 1) // train.batch_size}"
            )

    @property
    def seeds(self) -> range:
        """The seed of each network that is trained."""
        return range(self.seed, self.seed + self.num_seeds)

    def seed_suffix(self, index: int) -> str:
        """` of seed N` for a network of a stack; nothing for the only one."""
        return f" of seed {self.seeds[index]}" if self.num_seeds > 1 else ""

    def to_dict(self) -> dict[str, Any]:
        """The configuration as JSON takes it, section by section."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, tree: dict[str, Any]) -> "Config":
        """The inverse of `to_dict`, also for a configuration saved by older code.

        A setting that the saved configuration lacks has the value that its
        declaration gives for older checkpoints, which need not be today's default.

        Raises:
            UserError: for an unknown setting, a missing one that declares no such
                value, or a value out of range.
        """
        flat = flatten(tree)
        for name, field in FIELDS.items():
            if name not in flat:
                flat[name] = fields.value_before(name, field)
        return Config().replace(flat)

    def replace(self, values: dict[str, Any]) -> "Config":
        """A copy with some settings changed, checked again as a whole.

        Args:
            values: from a setting's full name, as `train.num_steps`, to its value.
        """
        changes: dict[str, dict[str, Any]] = {"": {}}
        for name, value in values.items():
            fields.find(name, FIELDS, name)
            section, _, key = name.rpartition(".")
            changes.setdefault(section, {})[key] = value
        top = changes.pop("")
        for section, values_there in changes.items():
            top[section] = dataclasses.replace(getattr(self, section), **values_there)
        return dataclasses.replace(self, **top)


def _fields() -> dict[str, fields.Field]:
    found: dict[str, fields.Field] = {}
    for field in dataclasses.fields(Config):
        if isinstance(field.type, type) and issubclass(field.type, Section):
            for inner in dataclasses.fields(field.type):
                found[f"{field.name}.{inner.name}"] = inner
        else:
            found[field.name] = field
    return found


# Every setting's field, by its full name, as `train.num_steps`.
FIELDS = _fields()


def flatten(tree: dict[str, Any]) -> dict[str, Any]:
    """`{"train": {"num_steps": 5}}` as `{"train.num_steps": 5}`."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": leaf for inner, leaf in value.items()}
        else:
            flat[key] = value
    return flat


def describe() -> str:
    """Every setting with its default, meaning and range, for `--help`."""
    lines = []
    for name, field in FIELDS.items():
        default = "none" if field.default is None else field.default
        lines.append(f"  --config.{name}={default}")
        lines.append(f"        {field.metadata['help']}; {fields.allowed(field)}")
    return "\n".join(lines)
