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
    from rnnmnist.config.fit_settings import FitSettings
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
    from rnnmnist.exporting.comparison import Certificate, Export
    from rnnmnist.inference.predictor import Prediction, Predictor
    from rnnmnist.reporting.pages import Report
    from rnnmnist.runs.logs import Metrics
    from rnnmnist.runs.results import Result
    from rnnmnist.runs.scores import Scores
    from rnnmnist.training.fit import fit

    __version__: str

__all__ = [  # without RNNClassifier, which needs scikit-learn
    "Certificate",
    "Config",
    "DataConfig",
    "DataWarning",
    "ExecutionConfig",
    "Export",
    "FitSettings",
    "Metrics",
    "ModelConfig",
    "Prediction",
    "Predictor",
    "Report",
    "Result",
    "RunError",
    "Scores",
    "StreamState",
    "Task",
    "TrainConfig",
    "UserError",
    "__version__",
    "evaluate",
    "export",
    "fit",
    "read_sequences",
    "report",
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

# These are functions, with the names of their modules. They are imported here, since
# the first import of a module sets the attribute of its package to the module.
from rnnmnist.evaluate import evaluate  # noqa: E402
from rnnmnist.export import export  # noqa: E402
from rnnmnist.report import report  # noqa: E402

# The modules of the other public names.
_MODULES = {
    "Certificate": "exporting.comparison",
    "Config": "config.schema",
    "DataConfig": "config.schema",
    "DataWarning": "errors",
    "ExecutionConfig": "config.schema",
    "Export": "exporting.comparison",
    "FitSettings": "config.fit_settings",
    "Metrics": "runs.logs",
    "ModelConfig": "config.schema",
    "Prediction": "inference.predictor",
    "Predictor": "inference.predictor",
    "RNNClassifier": "estimator",
    "Report": "reporting.pages",
    "Result": "runs.results",
    "RunError": "errors",
    "Scores": "runs.scores",
    "StreamState": "evaluation.network",
    "Task": "config.tasks",
    "TrainConfig": "config.schema",
    "UserError": "errors",
    "fit": "training.fit",
    "read_sequences": "data.sequences.reading",
}

if not TYPE_CHECKING:  # for which every name would be an attribute

    def __getattr__(name: str) -> object:
        """Imports a public name on first use, so that `--help` does not import jax."""
        if name == "__version__":
            from importlib import metadata

            return metadata.version("rnnmnist")
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"rnnmnist.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    """Lists public names before they are imported, too, as editors complete them."""
    return sorted({*globals(), *__all__})
