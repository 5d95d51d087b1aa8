"""rnnmnist: an LSTM that classifies sequences, such as MNIST images row by row.

>>> import rnnmnist
>>> rnnmnist.Predictor().predict("docs/five.jpg").digit
5
"""

import importlib
import signal
import sys

TYPE_CHECKING = False  # type checkers take it for that of `typing`, a slow import
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


def _end_on_interrupt() -> None:
    """Lets SIGINT end this process, as it ends any program, unless it is ignored.

    It is for a command that does not handle its signals yet. The error that Python
    raises otherwise can damage the import of a compiled module.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


# Python documents that `sys.argv` begins with "-m" while it looks for the module of
# `python -m MODULE ARGUMENTS`, for which it imports the packages of this module. The
# original arguments then end with MODULE, or -mMODULE, and ARGUMENTS.
if sys.argv[:1] == ["-m"] and len(sys.argv) < len(sys.orig_argv):
    _module = sys.orig_argv[-len(sys.argv)].removeprefix("-m")
    if _module.partition(".")[0] == "rnnmnist":
        _end_on_interrupt()

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
