"""The settings that `rnnmnist.fit` takes as keyword arguments.

By this declaration, editors complete them and type checkers check them. With
`**settings: Any`, as `rnnmnist.train` has it, they can do neither.

`config.schema` declares, checks and describes them. A test compares the two.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict


class FitSettings(TypedDict, total=False):
    """The settings of a run on arrays, by their names without the section."""

    # of the run
    seed: int
    num_seeds: int
    # data
    columns: str | Mapping[str, str] | None
    features: str | Sequence[str] | None
    normalize: Literal["standardize", "none"]
    validation: bool
    missing: Literal["error", "forward_fill", "zero"]
    # model
    cell: str
    hidden_size: int | None
    num_layers: int | None
    dropout: float
    pooling: Literal["last", "mean"]
    window: int | None
    stride: int | None
    bidirectional: bool
    differences: bool | None
    forget_bias: float
    initializer: Literal["flax", "tutorial", "chrono"]
    # train
    batch_size: int | None
    num_steps: int | None
    num_epochs: float | None
    min_steps: int
    loss: Literal["last", "every_step"]
    label_smoothing: float
    # The classes have the type of the labels, and the keys of a mapping only one type.
    class_weight: Literal["none", "balanced"] | Mapping[Any, float]
    learning_rate: float
    schedule: Literal["constant", "cosine"]
    warmup_fraction: float
    weight_decay: float
    clip_norm: float
    ema_decay: float
    log_every_steps: int | None
    eval_every_steps: int | None
    patience: int | None
    keep_checkpoints: int
    # execution
    num_devices: int | None
    precision: Literal["auto", "float32", "tensorfloat32", "bfloat16"]
    placement: Literal["auto", "device", "host"]
