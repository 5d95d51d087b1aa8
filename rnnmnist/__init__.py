"""Recurrent networks that classify sequences, such as the rows of MNIST images.

>>> import rnnmnist
>>> rnnmnist.load().predict("docs/five.jpg").digit
5
"""

import importlib

TYPE_CHECKING = False  # True for type checkers; importing `typing` would be slow
if TYPE_CHECKING:
    from rnnmnist.config.schema import (
        Config,
        DataConfig,
        ExecutionConfig,
        ModelConfig,
        TrainConfig,
    )
    from rnnmnist.config.tasks import Task
    from rnnmnist.data.sequences.reading import read_sequences
    from rnnmnist.errors import DataWarning, RunError, UserError
    from rnnmnist.estimator import RNNClassifier as RNNClassifier
    from rnnmnist.evaluation.network import StreamState
    from rnnmnist.exporting.comparison import Certificate
    from rnnmnist.fitting import fit, train
    from rnnmnist.inference.digit_images import Prediction
    from rnnmnist.model import Model, load
    from rnnmnist.reporting.pages import Report
    from rnnmnist.runs.logs import StepMetrics
    from rnnmnist.runs.metrics import EnsembleMetrics, Metrics, Result

    __version__: str

__all__ = [  # except RNNClassifier, which requires scikit-learn
    "Certificate",
    "Config",
    "DataConfig",
    "DataWarning",
    "EnsembleMetrics",
    "ExecutionConfig",
    "Metrics",
    "Model",
    "ModelConfig",
    "Prediction",
    "Report",
    "Result",
    "RunError",
    "StepMetrics",
    "StreamState",
    "Task",
    "TrainConfig",
    "UserError",
    "__version__",
    "fit",
    "load",
    "read_sequences",
    "train",
]

# The module that defines each public name.
_MODULES = {
    "Certificate": "exporting.comparison",
    "Config": "config.schema",
    "DataConfig": "config.schema",
    "DataWarning": "errors",
    "ExecutionConfig": "config.schema",
    "StepMetrics": "runs.logs",
    "Model": "model",
    "ModelConfig": "config.schema",
    "Metrics": "runs.metrics",
    "Prediction": "inference.digit_images",
    "RNNClassifier": "estimator",
    "Report": "reporting.pages",
    "Result": "runs.metrics",
    "RunError": "errors",
    "EnsembleMetrics": "runs.metrics",
    "StreamState": "evaluation.network",
    "Task": "config.tasks",
    "TrainConfig": "config.schema",
    "UserError": "errors",
    "fit": "fitting",
    "load": "model",
    "read_sequences": "data.sequences.reading",
    "train": "fitting",
}

if not TYPE_CHECKING:  # type checkers would accept any attribute

    def __getattr__(name: str) -> object:
        """Imports a public name on first use, so `--help` does not import JAX."""
        if name == "__version__":
            from importlib import metadata

            return metadata.version("rnnmnist")
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"rnnmnist.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    """Lists all public names, imported or not, for completion in editors."""
    return sorted({*globals(), *__all__})
