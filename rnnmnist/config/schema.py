"""All settings of a run, with their types, ranges, defaults and help texts.

Each value is checked when a `Config` is created. None selects the setting's default or
turns an option off, such as `train.patience`. `config.resolving` checks whether the
settings are consistent, and fills in the defaults that depend on the data.

A configuration file is a Python file with a function `get_config()` that returns a
`Config`. `configs/default.py` shows the default recipe. Other files set only the values
that differ from the defaults:

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

# Import paths of cells that need a loop over time steps, by cell name.
RNN_CELLS = {
    "lstm": "rnnmnist.models.lstm:LSTMCell",
    "gru": "flax.linen:GRUCell",
    "rnn": "flax.linen:SimpleCell",
}
# Linear recurrent units: the new state is linear in the previous state. The network
# stacks them in residual layers.
LINEAR_CELL = "lru"
# Random filters keep their initial parameters: only the head is fitted, in closed form.
# Networks with any other cell are trained by gradient descent.
CLOSED_FORM_CELL = "filters"
CELLS = (*RNN_CELLS, LINEAR_CELL, CLOSED_FORM_CELL)
# Conditions on a run, from which `Setting.applies_to` is composed.
IMAGES = "images"
SEQUENCES = "sequences (--config=files)"
GRADIENT = "gradient-based training (any model.cell except filters)"
VALIDATION = "a validation split"
RECURRENT_LAYERS = "recurrent layers (no model.network)"
CROSS_ENTROPY = "a built-in train.loss"
ADAMW = "a built-in train.optimizer"
WARMUP = "a built-in train.schedule"
TRAINING = (GRADIENT,)
LAYERS = (GRADIENT, RECURRENT_LAYERS)
LSTM = (*LAYERS, "model.cell=lstm")
AUGMENTATION = (GRADIENT, IMAGES)
# A custom function invalidates a condition, and so replaces the settings that
# apply only under it: a recipe's values for them are ignored, and a user's values are
# rejected.
REPLACED_CONDITIONS = {
    "model.network": RECURRENT_LAYERS,
    "train.loss": CROSS_ENTROPY,
    "train.optimizer": ADAMW,
    "train.schedule": WARMUP,
}


@dataclasses.dataclass(frozen=True)
class DataConfig(ConfigSection):
    """Settings of the data: data set, paths, preprocessing and augmentation."""

    prefix = "data."

    name: Literal["mnist", "fashion_mnist", "kmnist", "mnist5k", "files"] = setting(
        "mnist",
        "data set; mnist5k is bundled with the package, and files reads your own "
        "sequences from data.path",
    )
    path: str | None = setting(
        None,
        "your sequences: a .npz, .ts, .csv or .parquet file, a folder of .npy files, "
        "or a function FILE.py:NAME,KEY=VALUE,… that returns a dictionary of the same "
        "arrays",
        on_resume="allow",
        applies_to=(SEQUENCES,),
        is_path=True,
    )
    # Python also accepts a mapping from roles to column names.
    columns: str | None = setting(
        None,
        "column names of your table that differ from the names of the roles, such as "
        "sequence=id,label=class",
        pattern=r"^((^|,)(sequence|time|label|split|groups)=[^,=]+)+\Z",
        allowed="ROLE=NAME,… (ROLE is sequence, time, label, split or groups)",
        applies_to=(SEQUENCES,),
    )
    # Python also accepts a list of names.
    features: str | None = setting(
        None,
        "features to read: names of table columns, or entries of feature_names",
        default_help="all",
        pattern=r"^[^,]+(,[^,]+)*\Z",
        allowed="NAME,NAME,…",
        applies_to=(SEQUENCES,),
    )
    data_dir: str | None = setting(
        None,
        "folder where TFDS stores the data sets that it prepares",
        default_help="TFDS's default",
        on_resume="allow",
        is_path=True,
    )
    manual_dir: str | None = setting(
        None,
        "folder with the four original .gz files, to prepare a data set offline",
        on_resume="allow",
        is_path=True,
    )
    view: Literal["rows", "columns", "pixels", "permuted"] = setting(
        "rows",
        "input at each time step: a row, a column or a pixel of the image; permuted: a "
        "pixel, in the order set by data.permutation",
        applies_to=(IMAGES,),
    )
    permutation: str = setting(
        "bit_reversal",
        "order in which data.view=permuted reads the pixels",
        pattern=r"^(bit_reversal|random:[0-9]{1,9})\Z",
        allowed="bit_reversal or random:SEED, where SEED has at most 9 digits",
        applies_to=(IMAGES, "data.view=permuted"),
    )
    normalize: Literal["standardize", "none"] = setting(
        "standardize",
        "standardize: subtract each feature's training mean and divide by its training "
        "standard deviation; none: keep the values; images are always scaled to [0, 1]",
        applies_to=(SEQUENCES,),
    )
    validation: bool = setting(
        True,
        "if the data have no validation split, hold out a tenth of the training "
        "sequences (none if the data have a test split and a tenth is fewer than 50); "
        "if none are held out, filters are validated by leave-one-out",
    )
    missing: Literal["error", "forward_fill", "zero"] = setting(
        "error",
        "how NaN values are handled: raise an error, repeat the feature's previous "
        "value, or insert 0 after normalization",
        applies_to=(SEQUENCES,),
    )
    augment: str | Function | None = setting(
        None,
        "your own random augmentation of a training sequence: f(key, inputs, length) "
        "returns inputs [time, features]",
        default_help="none",
        functions=(),
        applies_to=TRAINING,
    )
    max_shift: int = setting(
        0,
        "maximum random shift of training images, in pixels",
        ge=0,
        le=13,
        applies_to=AUGMENTATION,
    )
    max_rotation: float = setting(
        0.0,
        "maximum random rotation of training images, in degrees",
        ge=0,
        le=180,
        applies_to=AUGMENTATION,
    )
    max_scale: float = setting(
        0.0,
        "maximum random scaling of training images: the factor is between 1 / (1 + "
        "max_scale) and 1 + max_scale",
        ge=0,
        le=1,
        applies_to=AUGMENTATION,
    )
    max_shear: float = setting(
        0.0,
        "maximum random shear of training images, in columns per row",
        ge=0,
        le=1,
        applies_to=AUGMENTATION,
    )
    elastic: float = setting(
        0.0,
        "random elastic transform of training images: standard deviation of the "
        "displacements, in pixels",
        ge=0,
        le=10,
        applies_to=AUGMENTATION,
    )
    flip: bool = setting(
        False,
        "flip each training image horizontally with probability 0.5",
        applies_to=AUGMENTATION,
    )

    def __post_init__(self) -> None:
        if isinstance(self.columns, Mapping):
            pairs = [f"{role}={name}" for role, name in self.columns.items()]
            object.__setattr__(self, "columns", ",".join(pairs))
        if isinstance(self.features, list | tuple):
            names = ",".join(map(str, self.features))
            object.__setattr__(self, "features", names)
        super().__post_init__()
        # A repeated role or column name leaves fewer distinct roles than pairs.
        if len(set(self.roles.values())) < (self.columns or "").count("="):
            raise UserError(
                f"data.columns: {self.columns} repeats a role or column; pass each once"
            )

    @property
    def roles(self) -> dict[str, str]:
        """The roles of the table columns in `columns`, by column name.

        For example, `sequence=id` gives `{"id": "sequence"}`.
        """
        pairs = self.columns.split(",") if self.columns else []
        items = [pair.split("=") for pair in pairs]
        return {name: role for role, name in items}

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the features to read; empty if all features are read."""
        return tuple(dict.fromkeys(self.features.split(","))) if self.features else ()


DEFAULT_UNITS = 128
DEFAULT_SEQUENCE_UNITS = 64
DEFAULT_FILTERS = 1000
DEFAULT_LAYERS = 2  # residual layers with linear recurrences
# If a sequence has more than LONG_SEQUENCE time steps, the network reads windows of
# LONG_WINDOW time steps by default.
LONG_SEQUENCE = 500
LONG_WINDOW = 8


@dataclasses.dataclass(frozen=True)
class ModelConfig(ConfigSection):
    """Settings of the recurrent network."""

    prefix = "model."

    cell: str | Function = setting(
        "lstm",
        "recurrent cell; lru uses linear recurrences in residual layers; filters uses "
        "random filters and fits only the head, in closed form; your own cell is a "
        "Flax class, called with features and name",
        functions=CELLS,
        applies_to=(RECURRENT_LAYERS,),
    )
    network: str | Function | None = setting(
        None,
        "your own network, which replaces the recurrent layers and the head: a Flax "
        "module class, called with classes, whose __call__(inputs, lengths, *, train) "
        "returns logits",
        default_help="none",
        functions=(),
        applies_to=TRAINING,
    )
    hidden_size: int | None = setting(
        None,
        "hidden units per layer, or number of random filters",
        default_help=f"{DEFAULT_UNITS}; {DEFAULT_SEQUENCE_UNITS} for sequences; "
        f"{DEFAULT_FILTERS:,} for filters",
        ge=1,
        le=8192,
        applies_to=(RECURRENT_LAYERS,),
    )
    num_layers: int | None = setting(
        None,
        "number of stacked recurrent layers, which are residual for lru",
        default_help=f"1; {DEFAULT_LAYERS} for lru",
        ge=1,
        le=64,
        applies_to=LAYERS,
    )
    dropout: float = setting(
        0.0,
        "dropout probability for the outputs of every layer, including the last",
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
        "number of consecutive time steps that the network reads as one input",
        default_help=f"{LONG_WINDOW} if a sequence has more than {LONG_SEQUENCE} time "
        "steps, otherwise 1",
        ge=1,
        le=1024,
        applies_to=LAYERS,
    )
    stride: int | None = setting(
        None,
        "number of time steps from one window to the next, at most model.window",
        default_help="a quarter of the window, rounded down, but at least 1",
        ge=1,
        le=1024,
        applies_to=LAYERS,
    )
    bidirectional: bool = setting(
        False,
        "also read sequences backwards, with separate parameters; the head reads both "
        "directions, so only whole sequences can be classified",
        applies_to=LAYERS,
    )
    deltas: bool | None = setting(
        None,
        "also read delta features: the change of each feature since the previous time "
        "step, which for sequences is divided by its training standard deviation",
        default_help="False; True for filters",
        applies_to=(RECURRENT_LAYERS,),
    )
    forget_bias: float = setting(
        1.0,
        "initial bias of an LSTM's forget gate",
        ge=-1000,
        le=1000,
        applies_to=LSTM,
    )
    initializer: Literal["flax", "tutorial", "chrono"] = setting(
        "flax",
        "initial parameters of an LSTM; flax: LeCun-normal and orthogonal kernels; "
        "tutorial: Glorot-uniform fused kernel, and a head drawn from N(0, 1); chrono: "
        "like flax, but the biases of the input and forget gates suit long sequences, "
        "and forget_bias is not used",
        applies_to=LSTM,
    )

    @property
    def is_linear(self) -> bool:
        """Whether the network has residual layers with linear recurrences."""
        return self.cell == LINEAR_CELL

    @property
    def is_closed_form(self) -> bool:
        """Whether only the head is fitted, in closed form."""
        return self.cell == CLOSED_FORM_CELL

    @property
    def reads_whole_sequences(self) -> bool:
        """Whether the network returns logits only after the last time step."""
        return self.bidirectional or self.network is not None

    @property
    def custom_functions(self) -> dict[str, Any]:
        """The custom cell or network, by full setting name."""
        values = {"model.cell": self.cell, "model.network": self.network}
        return {name: value for name, value in values.items() if is_custom(name, value)}


DEFAULT_BATCH = 128
DEFAULT_STEPS = 4300  # ten epochs of MNIST in batches of 128
DEFAULT_WARMUP = 0.02
DEFAULT_WEIGHT_DECAY = 0.1
ClassWeight = Annotated[float, msgspec.Meta(gt=0, le=1e38)]


@dataclasses.dataclass(frozen=True)
class TrainConfig(ConfigSection):
    """Settings of training, logging, validation and checkpoints."""

    prefix = "train."

    batch_size: int | None = setting(
        None,
        "training examples per update, across all devices",
        default_help=f"{DEFAULT_BATCH}; 16 to {DEFAULT_BATCH} for sequences, "
        "depending on how many there are",
        ge=1,
        applies_to=TRAINING,
    )
    num_steps: int | None = setting(
        None,
        "length of the run, in updates",
        default_help=f"{DEFAULT_STEPS}, unless num_epochs is set",
        ge=1,
        on_resume="warn",
        applies_to=TRAINING,
    )
    num_epochs: float | None = setting(
        None,
        "length of the run, in passes over the training examples; set this or "
        "num_steps, not both",
        gt=0,
        le=1e6,
        on_resume="allow",  # a resolved run has only num_steps
        applies_to=TRAINING,
    )
    min_steps: int = setting(
        1,
        "minimum number of updates if num_epochs is set",
        ge=1,
        on_resume="allow",
        applies_to=TRAINING,
    )
    loss: str | Function = setting(
        "last",
        "training loss; last: cross-entropy after the last time step; every_step: mean "
        "cross-entropy over all time steps, with weights that increase with time; your "
        "own: f(logits, labels) returns losses [batch]",
        functions=("last", "every_step"),
        applies_to=TRAINING,
    )
    label_smoothing: float = setting(
        0.0,
        "fraction of each label's probability that is spread evenly over all classes",
        ge=0,
        le=0.9,
        applies_to=(GRADIENT, CROSS_ENTROPY),
    )
    # In Python, a mapping. A `RunConfig` has one pair for each class of the task.
    class_weight: Literal["none", "balanced"] | tuple[tuple[str, ClassWeight], ...] = (
        setting(
            "none",
            "class weights in the training loss; balanced: inversely proportional to "
            "the number of training examples per class; if weights are set, balanced "
            "accuracy selects the checkpoint",
            allowed="none, balanced or (in Python) a mapping from classes to "
            "positive weights",
        )
    )
    learning_rate: float = setting(
        7e-3,
        "peak learning rate",
        gt=0,
        le=1e38,
        on_resume="warn",
        applies_to=TRAINING,
    )
    schedule: str | Function = setting(
        "cosine",
        "learning rate schedule after the warm-up; your own: f(peak, num_steps) "
        "returns a function that maps the step to the learning rate",
        functions=("constant", "cosine"),
        on_resume="warn",
        applies_to=TRAINING,
    )
    warmup_fraction: float | None = setting(
        None,
        "fraction of the updates over which the learning rate rises linearly to its "
        "peak",
        default_help=f"{DEFAULT_WARMUP}; 0 for your own schedule",
        ge=0,
        le=1,
        on_resume="warn",
        applies_to=(GRADIENT, WARMUP),
    )
    optimizer: str | Function = setting(
        "adamw",
        "optimizer, applied after gradient clipping; your own, or from optax: "
        "f(learning_rate) returns an optax gradient transformation",
        functions=("adamw",),
        applies_to=TRAINING,
    )
    weight_decay: float | None = setting(
        None,
        "weight decay of AdamW; 0 makes it Adam",
        default_help=f"{DEFAULT_WEIGHT_DECAY}; 0 for other optimizers",
        ge=0,
        le=1e38,
        applies_to=(GRADIENT, ADAMW),
    )
    clip_norm: float = setting(
        1.0,
        "maximum global norm of the gradient; 0 turns clipping off",
        ge=0,
        le=1e38,
        on_resume="warn",
        applies_to=TRAINING,
    )
    ema_decay: float = setting(
        0.0,
        "decay per update of the exponential moving average (EMA) of the weights; the "
        "EMA is evaluated and saved; 0 turns it off",
        ge=0,
        le=0.99999,
        applies_to=TRAINING,
    )
    metrics: tuple[str | Function, ...] | None = setting(
        None,
        "your own metrics for training and validation, joined by +: f(logits, labels) "
        "returns values [batch]",
        default_help="none",
        functions=(),
        is_tuple=True,
        on_resume="warn",  # metrics change the compiled program, and so the rounding
        applies_to=TRAINING,
    )
    log_every_steps: int | None = setting(
        None,
        "updates between two logged lines of training metrics",
        default_help="a hundredth of the run, but at least 10 and at most 100",
        ge=1,
        on_resume="allow",
        applies_to=TRAINING,
    )
    # This setting may be set for random filters, too; they are validated after the fit.
    eval_every_steps: int | None = setting(
        None,
        "updates between two validations; each validation saves a checkpoint",
        default_help="a tenth of the run, or an epoch if train.patience is set",
        ge=1,
        on_resume="allow",
    )
    patience: int | None = setting(
        None,
        "early stopping: end the run after this many consecutive validations without a "
        "lower loss (or without a higher balanced accuracy, if class weights are set); "
        "the learning rate schedule still spans the full run, so a run that stops "
        "early ends at a higher learning rate than a full run",
        ge=1,
        on_resume="allow",
        applies_to=(GRADIENT, VALIDATION),
    )
    keep_checkpoints: int = setting(
        2,
        "number of most recent validated checkpoints to keep, in addition to the best "
        "and the last checkpoint",
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
        """Whether class weights are set and balanced accuracy selects checkpoints."""
        return self.class_weight != "none"


# Default maximum number of CPU devices per process. If there are more devices, summing
# their gradients takes longer than the additional devices save.
MAX_CPU_DEVICES = 8


@dataclasses.dataclass(frozen=True)
class ExecutionConfig(ConfigSection):
    """Settings of the devices; `config.platforms` resolves them for a platform."""

    prefix = "execution."

    num_devices: int | None = setting(
        None,
        "number of devices across all processes",
        default_help="as many as evenly split the seeds, times as many as evenly split "
        "a batch; on CPU, at most one per usable core and "
        f"{MAX_CPU_DEVICES} per process",
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
        "where to store the training data: in device memory or on the host; auto "
        "chooses by the size of the data",
        on_resume="allow",
    )


# The sections of a configuration, by field name.
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
        UserError: if a value has the wrong type or is out of range. Settings that
            contradict each other raise an error when the run starts.
    """

    # The upper limit keeps the seed of each ensemble member below 2**31.
    seed: int = setting(
        0,
        "random seed for the weights, data order and augmentation",
        ge=0,
        le=2**31 - 4096,
    )
    num_seeds: int = setting(
        1,
        "number of networks in the ensemble; their seeds are seed, seed + 1, …",
        ge=1,
        le=4096,
    )
    tutorial_128: bool = setting(
        False,
        "also evaluate the first 128 test images, as the 2016 tutorial did",
        applies_to=(IMAGES,),
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
        """Returns the values of all settings, by full name."""
        return {name: operator.attrgetter(name)(self) for name in SETTINGS}

    @staticmethod
    def from_dict(tree: dict[str, Any]) -> "Config":
        """Restores a configuration from its JSON object.

        Missing settings get their defaults. Unknown settings raise a `TypeError`.
        """
        sections = {name: section(**tree[name]) for name, section in SECTIONS.items()}
        return Config(**tree | sections)

    def replace(self, values: Mapping[str, object]) -> Self:
        """Returns a copy with new values, a mapping from full setting names.

        A new `train.num_steps` clears `train.num_epochs`. A new `train.num_epochs`
        clears `train.num_steps` and resets `train.min_steps`, unless `values` contains
        them.
        """
        new_values: dict[str, Any] = dict(values)
        if new_values.get("train.num_epochs") is not None:
            new_values.setdefault("train.num_steps", None)
            new_values.setdefault("train.min_steps", 1)
        elif new_values.get("train.num_steps") is not None:
            new_values["train.num_epochs"] = None
        config = self
        for name, value in new_values.items():
            find_setting(name, SETTINGS)
            section, _, key = name.rpartition(".")
            changes = {key: value}
            if section:
                new_section = dataclasses.replace(getattr(config, section), **changes)
                changes = {section: new_section}
            config = dataclasses.replace(config, **changes)
        return config


# All settings by full name, such as `train.num_steps`.
SETTINGS: dict[str, Setting] = {
    section_setting.name: section_setting
    for section in (Config, *SECTIONS.values())
    for section_setting in settings_of(section).values()
}
# Data paths depend on the machine. Runs that differ only in data paths are equal.
DATA_PATHS = tuple(name for name, value in SETTINGS.items() if value.is_path)
# Settings that a user may pass when opening a saved run. Data files may have moved, and
# another table may have other column names. A custom cell or network has to be
# passed again, because code specified only in a checkpoint never runs.
LOAD_SETTINGS = (*DATA_PATHS, "data.columns", "model.cell", "model.network")


def is_custom(name: str, value: object) -> bool:
    """Returns True if the value of a setting is a custom function."""
    declaration = SETTINGS[name]
    if declaration.is_path:
        return is_in_file(str(value))
    built_in = declaration.functions
    return built_in is not None and value not in (None, *built_in)
