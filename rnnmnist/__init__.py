"""rnnmnist: an LSTM reads MNIST images row by row and says which digit it read.

>>> from rnnmnist import Reader
>>> Reader().read("five.png").digit  # doctest: +SKIP
5
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rnnmnist.inference.predictor import Reader

__all__ = ["Reader"]


def __getattr__(name: str) -> Any:
    """Imports jax and the rest only when they are asked for: `--help` is to be fast."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rnnmnist.inference import predictor

    return getattr(predictor, name)
