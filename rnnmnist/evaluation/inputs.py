"""Reads and validates the inputs that a user passes to a trained network."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rnnmnist.config.schema import DataConfig
from rnnmnist.config.tasks import Task
from rnnmnist.data.examples import Inputs, Normalization
from rnnmnist.data.sequences.checking import Sequences, check_arrays, validate_array
from rnnmnist.errors import UserError, format_value


def read_inputs(
    task: Task, data: DataConfig, inputs: ArrayLike | None, **arrays: ArrayLike | None
) -> Sequences:
    """Reads images or sequences, and validates their shape and features.

    Args:
        task: the task of the network.
        data: data settings of the run.
        inputs: as in `Model.classify`. None is invalid.
        **arrays: `labels`, `lengths` and `groups`, as in `rnnmnist.fit`.
    """
    array_like: Any = inputs
    if task.image_shape is None:
        from rnnmnist.data.sequences.reading import read_memory  # imports pyarrow

        return read_memory(array_like, data.roles, task.feature_names, **arrays)
    if arrays.get("lengths") is not None:
        raise UserError("lengths: must be None for images; remove this argument")
    images = validate_array("inputs", array_like, "biuf")
    is_image = images.shape[1:] == task.image_shape
    if not (images.size and is_image and images.dtype == np.uint8):
        raise UserError(
            f"inputs: must be uint8 images of shape {task.image_shape}, not "
            f"{images.dtype} of shape {images.shape}"
        )
    return check_arrays(images, **arrays)


def to_inputs(sequences: Sequences, task: Task, data: DataConfig) -> Inputs:
    """Converts images or sequences to `Inputs`, and validates sequence values."""
    if task.image_shape is not None:
        return Inputs(sequences.inputs)
    from rnnmnist.data.sequences.reading import check_and_hash_values  # imports pyarrow

    normalization = Normalization.create(task, data.missing)
    check_and_hash_values(sequences, normalization)
    return Inputs(sequences.inputs, sequences.lengths, normalization=normalization)


def read_features(
    task: Task, normalization: Normalization, features: ArrayLike
) -> np.ndarray:
    """Validates the features of one time step, and returns float64 [features].

    The returned features are not normalized.
    """
    array = validate_array("features", features, "biuf", task.features)
    values = array.astype(np.float64)
    is_image = task.image_shape is not None
    if is_image and (values.min() < 0 or values.max() > 1):
        raise UserError(
            "features: must be pixel values between 0 and 1, not "
            f"{format_value(features)}"
        )
    invalid = normalization.find_invalid(values)
    if invalid is not None:
        (feature,), reason = invalid
        names = task.feature_names or range(task.features)
        raise UserError(f"feature {names[feature]} {reason}")
    return values
