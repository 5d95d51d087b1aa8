"""rnnmnist: an LSTM that classifies sequences, such as MNIST images row by row.

>>> import rnnmnist
>>> rnnmnist.Predictor().predict("docs/five.jpg").digit
5
"""

import importlib
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rnnmnist.config.schema import (
        Config,
        DataConfig,
        ExecutionConfig,
        ModelConfig,
        TrainConfig,
    )
    from rnnmnist.data.sequences.reading import read_sequences
    from rnnmnist.estimator import RNNClassifier as RNNClassifier
    from rnnmnist.inference.predictor import Prediction, Predictor
    from rnnmnist.training.fit import fit

    __version__: str

__all__ = [  # without RNNClassifier, which needs scikit-learn
    "Config",
    "DataConfig",
    "ExecutionConfig",
    "ModelConfig",
    "Prediction",
    "Predictor",
    "TrainConfig",
    "__version__",
    "fit",
    "read_sequences",
]
# Python documents that `sys.argv` begins with "-m" while it looks for the module of
# `python -m rnnmnist.COMMAND`, for which it imports this package.
_is_command = sys.argv[:1] == ["-m"]
# Until the command handles its signals, an interrupt ends it as it ends any program.
# The error that Python raises otherwise can damage the import of a compiled module.
if _is_command and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

_MODULES = {
    "Prediction": "inference.predictor",
    "Predictor": "inference.predictor",
    "RNNClassifier": "estimator",
    "fit": "training.fit",
    "read_sequences": "data.sequences.reading",
}


def __getattr__(name: str) -> object:
    """Imports a public name on first use, so that `--help` does not import jax."""
    if name not in __all__ and name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "__version__":
        from importlib import metadata

        return metadata.version("rnnmnist")
    module = _MODULES.get(name, "config.schema")
    return getattr(importlib.import_module(f"rnnmnist.{module}"), name)
