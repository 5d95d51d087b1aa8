"""rnnmnist: an LSTM that classifies MNIST images row by row.

>>> import rnnmnist
>>> rnnmnist.Predictor().predict("docs/five.jpg").digit
5
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rnnmnist.config.schema import Config, DataConfig, ModelConfig, TrainConfig
    from rnnmnist.inference.predictor import Prediction, Predictor

__all__ = [
    "Config",
    "DataConfig",
    "ModelConfig",
    "Prediction",
    "Predictor",
    "TrainConfig",
]


def __getattr__(name: str) -> Any:
    """Imports a public name on first use, so that `--help` does not import jax."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    is_config = name.endswith("Config")
    module = "config.schema" if is_config else "inference.predictor"
    return getattr(importlib.import_module(f"rnnmnist.{module}"), name)
