"""The user's configuration: frozen, typed, and checked on construction.

None selects the default of a setting or disables an option, such as `train.patience`.
`config.resolving` checks the settings against each other and fills in the defaults,
which can depend on the data.

A configuration file is a Python file with a function `get_config()` that returns a
`Config`. `configs/default.py` writes out the defaults of its recipe; variants pass only
their changes:

    >>> from rnnmnist import Config, TrainConfig
    >>> config = Config(seed=1, train=TrainConfig(num_steps=100))
    >>> config.train.num_steps
    100
"""

import dataclasses
import operator
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import msgspec

from rnnmnist.config.functions import Function, is_in_file
from rnnmnist.config.settings import (
    ConfigSection,
    Setting,
    find_setting,
    setting,
    settings_of,
    to_python,
)
from rnnmnist.errors import UserError, format_value

# Import paths of recurrent cells by name.
GATED_CELLS = {
    "lstm": "rnnmnist.models.lstm:LSTMCell",
    "gru": "flax.linen:GRUCell",
    "rnn": "flax.linen:SimpleCell",
}
# A cell whose new state is linear in the previous state, used in residual layers.
LINEAR_CELL = "lru"
# Random filters, whose parameters stay as drawn: only the head is fitted, in closed
# form. Networks with any other cell are trained by gradients.
CLOSED_FORM_CELL = "filters"
CELLS = (*GATED_CELLS, LINEAR_CELL, CLOSED_FORM_CELL)
# Values of `Setting.applies_to`: the runs in which a setting has an effect.
IMAGES = "images"
SEQUENCES = "sequences"
PERMUTED = "data.view=permuted"
RECURRENCE = "recurrent layers"
GRADIENT = "gradient-based training"
LAYERS = "gradient-based training of recurrent layers"
AUGMENTATION = "gradient-based training on images"
VALIDATED = "gradient-based training with a validation split"
CROSS_ENTROPY = "gradient-based training with train.loss=last or every_step"
ADAMW = "gradient-based training with train.optimizer=adamw"
WARMUP = "gradient-based training with train.schedule=constant or cosine"
LSTM = "model.cell=lstm"
IMAGE_KINDS = (IMAGES, PERMUTED, AUGMENTATION)
TRAINING_KINDS = (
    GRADIENT,
    LAYERS,
    AUGMENTATION,
    VALIDATED,
    CROSS_ENTROPY,
    ADAMW,
    WARMUP,
    LSTM,
)


@dataclasses.dataclass(frozen=True)
class DataConfig(ConfigSection):
    """The data set, its location and preprocessing, and augmentation."""

    prefix = "data."

    name: Literal["mnist", "fashion_mnist", "kmnist", "mnist5k", "files"] = setting(
        "mnist",
        "data set: mnist5k ships with the package; files are your own sequences",
    )
    path: str | None = setting(
        None,
        "your sequences: a .npz, .ts, .csv or .parquet file, a folder of .npy files, "
        "or FILE.py:NAME,KEY=VALUE,…, a function that returns the arrays of such a "
        "folder by name",
        on_resume="allow",
        applies_to=SEQUENCES,
        is_path=True,
        functions=(),
    )
    # In Python, also a mapping from roles to column names.
    columns: str | None = setting(
        None,
        "names of table columns that differ from their roles: any of sequence=NAME,"
        "time=NAME,label=NAME,split=NAME,groups=NAME",
        pattern=r"^((^|,)(sequence|time|label|split|groups)=[^,=]+)+\Z",
        description="ROLE=NAME,… with the roles sequence, time, label, split, groups",
        applies_to=SEQUENCES,
    )
    # In Python, also a list of names.
    features: str | None = setting(
        None,
        "names of the features to read: columns of a table, or entries of "
        "feature_names",
        default_help="all",
        pattern=r"^[^,]+(,[^,]+)*\Z",
        description="NAME,NAME,…",
        applies_to=SEQUENCES,
    )
    data_dir: str | None = setting(
        None,
        "folder in which TFDS prepares data sets",
        default_help="TFDS's default",
        on_resume="allow",
        is_path=True,
    )
    manual_dir: str | None = setting(
        None,
        "folder that contains the four original .gz files",
        on_resume="allow",
        is_path=True,
    )
    view: Literal["rows", "columns", "pixels", "permuted"] = setting(
        "rows",
        "input at each time step: a row, a column or a pixel of the image; permuted: "
        "pixels in the order of data.permutation",
        applies_to=IMAGES,
    )
    permutation: str = setting(
        "bit_reversal",
        "order of the permuted pixels",
        pattern=r"^(bit_reversal|random:[0-9]{1,9})\Z",
        description="bit_reversal, or random:SEED with a SEED below 1,000,000,000",
        applies_to=PERMUTED,
    )
    normalize: Literal["standardize", "none"] = setting(
        "standardize",
        "standardize: subtract each feature's mean over the training split and divide "
        "by its standard deviation; images are instead scaled to [0, 1]",
        applies_to=SEQUENCES,
    )
    validation: bool = setting(
        True,
        "if the data have no validation split, hold out a tenth of the training "
        "sequences, but with a test split never fewer than 50; if none are held out, "
        "filters are validated by leaving one out",
    )
    missing: Literal["error", "forward_fill", "zero"] = setting(
        "error",
        "NaN values: raise an error, repeat the last value of the feature, or use 0 "
        "after the normalization",
        applies_to=SEQUENCES,
    )
    augment: str | Function | None = setting(
        None,
        "random augmentation of each training sequence: f(key, inputs, length) returns "
        "inputs [time, features]",
        default_help="none",
        functions=(),
        applies_to=GRADIENT,
    )
    max_shift: int = setting(
        0,
        "largest random shift of training images, in pixels",
        ge=0,
        le=13,
        applies_to=AUGMENTATION,
    )
    max_rotation: float = setting(
        0.0,
        "largest random rotation, in degrees",
        ge=0,
        le=180,
        applies_to=AUGMENTATION,
    )
    max_scale: float = setting(
        0.0,
        "largest random scaling, by a factor of 1 + this",
        ge=0,
        le=1,
        applies_to=AUGMENTATION,
    )
    max_shear: float = setting(
        0.0,
        "largest random shear, in columns per row",
        ge=0,
        le=1,
        applies_to=AUGMENTATION,
    )
    elastic: float = setting(
        0.0,
        "elastic transform: standard deviation in pixels",
        ge=0,
        le=10,
        applies_to=AUGMENTATION,
    )
    flip: bool = setting(
        False,
        "mirror half of the training images left to right",
        applies_to=AUGMENTATION,
    )

    def __post_init__(self) -> None:
        if isinstance(self.columns, Mapping):
            pairs = [f"{role}={name}" for role, name in self.columns.items()]
            object.__setattr__(self, "columns", ",".join(pairs))
        if isinstance(self.features, list | tuple):
            names = list(map(str, self.features))
            if any("," in name for name in names):
                raise UserError(
                    f"data.features: {names} contains a name with a comma, which "
                    "separates names; rename the feature"
                )
            object.__setattr__(self, "features", ",".join(names))
        super().__post_init__()
        # A repeated role or column leaves fewer roles than pairs.
        if len(set(self.roles.values())) < (self.columns or "").count("="):
            raise UserError(
                f"data.columns: {self.columns} repeats a role or column; name each once"
            )

    @property
    def roles(self) -> dict[str, str]:
        """The role of each table column in `columns`, by column name.

        For example, `sequence=id` gives `{"id": "sequence"}`.
        """
        pairs = self.columns.split(",") if self.columns else []
        split = [pair.split("=") for pair in pairs]
        return {name: role for role, name in split}

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the selected features; empty if all are selected."""
        return tuple(dict.fromkeys(self.features.split(","))) if self.features else ()


DEFAULT_UNITS = 128
DEFAULT_SEQUENCE_UNITS = 64
DEFAULT_FILTERS = 1000
DEFAULT_LAYERS = 2  # of residual layers with linear recurrences
# With sequences of more time steps, a run reads windows of LONG_WINDOW time steps.
LONG_SEQUENCE = 500
LONG_WINDOW = 8


@dataclasses.dataclass(frozen=True)
class ModelConfig(ConfigSection):
    """The recurrent network."""

    prefix = "model."

    cell: str | Function = setting(
        "lstm",
        "recurrent cell; lru: linear recurrence in residual layers; filters: random, "
        "with only the head fitted, in closed form; your own: a Flax cell, created "
        "with features and name",
        functions=CELLS,
        applies_to=RECURRENCE,
    )
    network: str | Function | None = setting(
        None,
        "your own Flax module, in place of recurrent layers and head, created with "
        "classes; its __call__(inputs, lengths, *, train) returns logits",
        default_help="none",
        functions=(),
        applies_to=GRADIENT,
    )
    hidden_size: int | None = setting(
        None,
        "number of hidden units, or of filters",
        default_help=f"{DEFAULT_UNITS}; {DEFAULT_SEQUENCE_UNITS} for sequences; "
        f"{DEFAULT_FILTERS:,} for filters",
        ge=1,
        le=8192,
        applies_to=RECURRENCE,
    )
    num_layers: int | None = setting(
        None,
        "number of stacked recurrent layers; each reads the outputs of the previous "
        "layer; for lru, residual layers",
        default_help=f"1; {DEFAULT_LAYERS} for lru",
        ge=1,
        le=64,
        applies_to=LAYERS,
    )
    dropout: float = setting(
        0.0,
        "dropout probability of each layer's outputs, before the next layer and before "
        "the head",
        ge=0,
        lt=1,
        applies_to=LAYERS,
    )
    pooling: Literal["last", "mean"] = setting(
        "last",
        "input of the head: the hidden state after the last time step, or the mean of "
        "the hidden states over all time steps",
        applies_to=LAYERS,
    )
    window: int | None = setting(
        None,
        "number of consecutive time steps that the recurrent layers read at once",
        default_help=f"{LONG_WINDOW} if a sequence has more than {LONG_SEQUENCE} time "
        "steps, otherwise 1",
        ge=1,
        le=1024,
        applies_to=LAYERS,
    )
    stride: int | None = setting(
        None,
        "time steps from one window to the next, at most model.window",
        default_help="a quarter of the window, rounded down, at least 1",
        ge=1,
        le=1024,
        applies_to=LAYERS,
    )
    bidirectional: bool = setting(
        False,
        "also read the sequence backwards, with separate parameters; the head reads "
        "both directions; classifies whole sequences only",
        applies_to=LAYERS,
    )
    deltas: bool | None = setting(
        None,
        "also read delta features: differences from the previous time step, for "
        "sequences divided by their standard deviation in training",
        default_help="False; True for filters",
        applies_to=RECURRENCE,
    )
    forget_bias: float = setting(
        1.0,
        "initial bias of the forget gate of an LSTM",
        ge=-1000,
        le=1000,
        applies_to=LSTM,
    )
    initializer: Literal["flax", "tutorial", "chrono"] = setting(
        "flax",
        "flax: LeCun-normal and orthogonal kernels; tutorial: Glorot-uniform fused "
        "kernel, weights and bias of the head from N(0, 1); chrono: as flax, but with "
        "biases of the input and forget gates for long sequences instead of "
        "forget_bias",
        applies_to=LSTM,
    )

    @property
    def is_linear(self) -> bool:
        """Whether the network has residual layers with linear recurrences."""
        return self.cell == LINEAR_CELL

    @property
    def is_closed_form(self) -> bool:
        """Whether only the head is fitted, in closed form, instead of by gradients."""
        return self.cell == CLOSED_FORM_CELL

    @property
    def reads_whole_sequences(self) -> bool:
        """Whether the network has outputs only after the last time step."""
        return self.bidirectional or self.network is not None

    @property
    def user_functions(self) -> dict[str, Any]:
        """The user-defined cell or network by full setting name."""
        named = {"model.cell": self.cell, "model.network": self.network}
        return {
            name: value for name, value in named.items() if is_user_defined(name, value)
        }


DEFAULT_BATCH = 128
DEFAULT_STEPS = 4300  # ten epochs of MNIST in batches of 128
DEFAULT_WARMUP = 0.02
DEFAULT_WEIGHT_DECAY = 0.1
ClassWeight = Annotated[float, msgspec.Meta(gt=0, le=1e38)]


@dataclasses.dataclass(frozen=True)
class TrainConfig(ConfigSection):
    """Optimization, and the intervals of logging, validation and checkpoints."""

    prefix = "train."

    batch_size: int | None = setting(
        None,
        "examples per update, over all devices",
        default_help=f"{DEFAULT_BATCH}; 16 to {DEFAULT_BATCH} for sequences, "
        "increasing with the number of sequences",
        ge=1,
        applies_to=GRADIENT,
    )
    num_steps: int | None = setting(
        None,
        "length of the run in updates",
        default_help=f"{DEFAULT_STEPS}, or set by num_epochs",
        ge=1,
        on_resume="warn",
        applies_to=GRADIENT,
    )
    num_epochs: float | None = setting(
        None,
        "length of the run in passes over the training examples, instead of num_steps",
        gt=0,
        le=1e6,
        on_resume="allow",  # a resolved run has only num_steps
        applies_to=GRADIENT,
    )
    min_steps: int = setting(
        1,
        "minimum number of updates in a run whose length num_epochs sets",
        ge=1,
        on_resume="allow",
        applies_to=GRADIENT,
    )
    loss: str | Function = setting(
        "last",
        "last: cross-entropy after the last time step; every_step: its mean over all "
        "time steps, with weights that increase with time; your own: f(logits, labels) "
        "returns [batch]",
        functions=("last", "every_step"),
        applies_to=GRADIENT,
    )
    label_smoothing: float = setting(
        0.0,
        "fraction of the label spread evenly over all classes",
        ge=0,
        le=0.9,
        applies_to=CROSS_ENTROPY,
    )
    # In a `RunConfig`, a mapping becomes one pair for each class of the task.
    class_weight: Literal["none", "balanced"] | tuple[tuple[str, ClassWeight], ...] = (
        setting(
            "none",
            "class weights in the training loss; balanced: inversely proportional to "
            "the number of training examples of the class; with weights, balanced "
            "accuracy selects the checkpoint",
            description="none, balanced or, in Python, a mapping from classes to "
            "weights above 0",
        )
    )
    learning_rate: float = setting(
        7e-3,
        "peak learning rate",
        gt=0,
        le=1e38,
        on_resume="warn",
        applies_to=GRADIENT,
    )
    schedule: str | Function = setting(
        "cosine",
        "schedule of the learning rate after the warm-up; your own: f(peak, num_steps) "
        "returns a function from the step to the learning rate",
        functions=("constant", "cosine"),
        on_resume="warn",
        applies_to=GRADIENT,
    )
    warmup_fraction: float | None = setting(
        None,
        "fraction of the steps with linear warm-up",
        default_help=f"{DEFAULT_WARMUP}; 0 for your own schedule",
        ge=0,
        le=1,
        on_resume="warn",
        applies_to=WARMUP,
    )
    optimizer: str | Function = setting(
        "adamw",
        "optimizer, applied to the clipped gradients; from optax, or your own: "
        "f(learning_rate) returns an optax transformation",
        functions=("adamw",),
        applies_to=GRADIENT,
    )
    weight_decay: float | None = setting(
        None,
        "weight decay of AdamW; 0: Adam",
        default_help=f"{DEFAULT_WEIGHT_DECAY}; 0 for other optimizers",
        ge=0,
        le=1e38,
        applies_to=ADAMW,
    )
    clip_norm: float = setting(
        1.0,
        "maximum global norm of the gradient; 0: no clipping",
        ge=0,
        on_resume="warn",
        le=1e38,
        applies_to=GRADIENT,
    )
    ema_decay: float = setting(
        0.0,
        "decay per update of the exponential moving average (EMA) of the weights, "
        "which is evaluated and saved; 0: no EMA",
        ge=0,
        le=0.99999,
        applies_to=GRADIENT,
    )
    metrics: tuple[str | Function, ...] | None = setting(
        None,
        "additional metrics of training and validation, joined by +: f(logits, labels) "
        "returns [batch]",
        default_help="none",
        functions=(),
        is_tuple=True,
        on_resume="warn",  # a different program rounds differently
        applies_to=GRADIENT,
    )
    log_every_steps: int | None = setting(
        None,
        "steps between lines of training metrics",
        default_help="a hundredth of the run, from 10 to 100",
        ge=1,
        on_resume="allow",
        applies_to=GRADIENT,
    )
    # This setting also applies to filters, which are always validated after their fit.
    eval_every_steps: int | None = setting(
        None,
        "steps between validations; each saves a checkpoint",
        default_help="a tenth of the run; an epoch with train.patience",
        ge=1,
        on_resume="allow",
    )
    patience: int | None = setting(
        None,
        "early stopping after this many consecutive validations without a lower loss "
        "(with class weights, a higher balanced accuracy); the schedule still spans "
        "the whole run, so its low learning rates are not reached",
        ge=1,
        on_resume="allow",
        applies_to=VALIDATED,
    )
    keep_checkpoints: int = setting(
        2,
        "number of newest validated checkpoints to keep, besides the best and the last",
        ge=1,
        on_resume="allow",
    )

    def __post_init__(self) -> None:
        if isinstance(self.class_weight, Mapping):
            weights = {str(name): to_python(w) for name, w in self.class_weight.items()}
            object.__setattr__(self, "class_weight", tuple(sorted(weights.items())))
        super().__post_init__()

    @property
    def has_class_weights(self) -> bool:
        """Whether class weights are set; balanced accuracy then selects checkpoints."""
        return self.class_weight != "none"


@dataclasses.dataclass(frozen=True)
class ExecutionConfig(ConfigSection):
    """Device settings of a run; `config.platforms` resolves them for a platform."""

    prefix = "execution."

    num_devices: int | None = setting(
        None,
        "number of devices over all processes",
        default_help="the most that divide the seeds, then the most of the rest that "
        "divide the batch; on CPU at most one per usable core and 8 per process",
        ge=1,
        le=4096,
        on_resume="warn",
    )
    precision: Literal["auto", "float32", "tensorfloat32", "bfloat16"] = setting(
        "auto",
        "minimum precision of matrix products; auto: float32 on CPU, tensorfloat32 on "
        "GPU, bfloat16 on TPU",
        on_resume="warn",
    )
    placement: Literal["auto", "device", "host"] = setting(
        "auto",
        "where the training data reside: in device memory or on the host; auto: by "
        "their size",
        on_resume="allow",
    )


# The sections of a configuration by field name.
SECTIONS: dict[str, type[ConfigSection]] = {
    "data": DataConfig,
    "model": ModelConfig,
    "train": TrainConfig,
    "execution": ExecutionConfig,
}


@dataclasses.dataclass(frozen=True)
class Config(ConfigSection):
    """The configuration of a run.

    Raises:
        UserError: if a value has the wrong type or is out of range. Contradictions
            between settings raise an error at the start of the run.
    """

    seed: int = setting(  # the seeds of all members are below 2**31
        0, "seed of weights, data order and augmentation", ge=0, le=2**31 - 4096
    )
    num_seeds: int = setting(
        1,
        "number of networks in the ensemble, with seeds seed, seed + 1, …",
        ge=1,
        le=4096,
    )
    tutorial_128: bool = setting(
        False,
        "also evaluate the first 128 test images, as the 2016 tutorial did",
        applies_to=IMAGES,
    )
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    execution: ExecutionConfig = dataclasses.field(default_factory=ExecutionConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, section in SECTIONS.items():
            value = getattr(self, name)
            if not isinstance(value, section):
                raise UserError(
                    f"{name}: must be a {section.__name__}, not {format_value(value)}"
                )

    @property
    def seeds(self) -> range:
        """The seeds of the ensemble members."""
        return range(self.seed, self.seed + self.num_seeds)

    def flat(self) -> dict[str, Any]:
        """Returns the values of all settings by full name."""
        return {name: operator.attrgetter(name)(self) for name in SETTINGS}

    @staticmethod
    def from_dict(tree: dict[str, Any]) -> "Config":
        """Restores a configuration from its JSON object.

        Missing settings get their defaults; unknown settings raise a `TypeError`.
        """
        sections = {name: section(**tree[name]) for name, section in SECTIONS.items()}
        return Config(**tree | sections)

    def replace(self, values: Mapping[str, object]) -> Self:
        """Returns a copy with new values, given by full setting name.

        A new `train.num_steps` clears `train.num_epochs`. A new `train.num_epochs`
        clears `train.num_steps` and resets `train.min_steps`, unless they are given.
        """
        given: dict[str, Any] = dict(values)
        if given.get("train.num_epochs") is not None:
            given.setdefault("train.num_steps", None)
            given.setdefault("train.min_steps", 1)
        elif given.get("train.num_steps") is not None:
            given["train.num_epochs"] = None
        config = self
        for name, value in given.items():
            find_setting(name, SETTINGS)
            section, _, key = name.rpartition(".")
            changes = {key: value}
            if section:
                changed = dataclasses.replace(getattr(config, section), **changes)
                changes = {section: changed}
            config = dataclasses.replace(config, **changes)
        return config


# All settings by full name, such as `train.num_steps`.
SETTINGS: dict[str, Setting] = {
    declared.name: declared
    for section in (Config, *SECTIONS.values())
    for declared in settings_of(section).values()
}
# Data paths depend on the machine and are not part of the run.
DATA_PATHS = tuple(name for name, declared in SETTINGS.items() if declared.is_path)
# Settings that a user can change when opening a run: data files can have moved, another
# table can use other column names, and a user-defined cell or network must be named
# again, because its code would otherwise not run.
LOAD_SETTINGS = (*DATA_PATHS, "data.columns", "model.cell", "model.network")
# For each user-defined function, the `applies_to` of the settings that it replaces. The
# values of these settings are dropped if a recipe sets them, and refused if the user
# sets them.
REPLACED = {
    "model.network": (RECURRENCE, LAYERS, LSTM),
    "train.loss": (CROSS_ENTROPY,),
    "train.optimizer": (ADAMW,),
    "train.schedule": (WARMUP,),
}


def is_user_defined(name: str, value: object) -> bool:
    """Returns True if the value of a setting names a user-defined function."""
    functions = SETTINGS[name].functions
    if functions is None or (SETTINGS[name].is_path and not is_in_file(str(value))):
        return False
    return value not in (None, *functions)
