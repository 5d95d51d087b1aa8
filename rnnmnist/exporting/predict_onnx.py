"""Runs `model.onnx` with onnxruntime.

`load(FOLDER)(images)`, or `load(FOLDER)(sequences, lengths)`, returns the logits.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime


def load(folder: Path) -> Callable[..., np.ndarray]:
    """Returns a function from raw examples to logits."""
    session = onnxruntime.InferenceSession(
        folder / "model.onnx", providers=["CPUExecutionProvider"]
    )
    names = [argument.name for argument in session.get_inputs()]

    def predict(*examples: np.ndarray) -> np.ndarray:
        if not len(examples[0]):  # which can end the process
            raise ValueError("there are no examples; pass one or more")
        (logits,) = session.run(["logits"], dict(zip(names, examples, strict=True)))
        return logits

    return predict
