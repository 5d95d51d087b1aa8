"""rnnmnist: an LSTM reads MNIST images row by row and says which digit it read.

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

_MODULES = {
    "Config": "config.schema",
    "DataConfig": "config.schema",
    "ModelConfig": "config.schema",
    "Prediction": "inference.predictor",
    "Predictor": "inference.predictor",
    "TrainConfig": "config.schema",
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is used, so that `--help` does not wait for jax."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"rnnmnist.{_MODULES[name]}")
    return getattr(module, name)
