"""Serializes trained networks as ONNX models, and loads the models."""

import json
from collections.abc import Callable

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from rnnmnist.config.resolving import RunModelConfig
from rnnmnist.errors import UserError
from rnnmnist.evaluation.network import Network
from rnnmnist.exporting.onnx_graph import Graph
from rnnmnist.exporting.onnx_layers import (
    add_cell,
    add_filters,
    add_layers,
    add_validity_mask,
    divide_by_lengths,
)
from rnnmnist.models.cells import DELTAS, FILTERS, layer_names
from rnnmnist.models.parameters import Params
from rnnmnist.runtime.mesh import split_ensemble

# Versions from 2023, so that older runtimes can load the models.
OPSET = 20
IR_VERSION = 9


def serialize(network: Network) -> bytes:
    """Returns the ONNX model of a network, the content of `model.onnx`.

    The inputs are `images`, or `sequences` and `lengths`, in the format of
    `exported_inputs`, with any number of examples and time steps. The outputs are
    `logits` and `probabilities`, float32 [examples, classes]. The metadata contains the
    names of the classes and features.

    Raises:
        UserError: if the cell or the network is custom, because ONNX has no
            operator for it.
    """
    for name, value in network.config.model.custom_functions.items():
        raise UserError(
            f"format: only stablehlo supports {name}={value}; use --format=stablehlo"
        )
    task = network.task
    num_classes = len(task.classes)
    outputs = (
        f"float[examples, {num_classes}] logits, "
        f"float[examples, {num_classes}] probabilities"
    )
    if task.image_shape:
        rows, columns = task.image_shape
        graph = Graph(f"(uint8[examples, {rows}, {columns}] images) => ({outputs})")
        values = _add_images(graph, network)
        lengths = graph.Expand([task.time_steps], graph.Shape("images", end=1))
    else:
        graph = Graph(
            f"(float[examples, time, {task.features}] sequences, "
            f"int32[examples] lengths) => ({outputs})"
        )
        values = _add_sequences(graph, network)
        lengths = graph.Cast("lengths", to=TensorProto.INT64)
    logits = _add_logits(graph, network, values, lengths)
    graph.Div(logits, network.temperature, name="logits")
    graph.Softmax("logits", name="probabilities", axis=-1)
    model = helper.make_model(
        graph.proto,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="rnnmnist",
    )
    names = {
        "classes": json.dumps(task.classes),
        "features": json.dumps(task.feature_names),
    }
    helper.set_model_props(model, names)
    return model.SerializeToString()


def deserialize(content: bytes) -> Callable[..., np.ndarray]:
    """Loads an ONNX model as a function that maps inputs to logits."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [argument.name for argument in session.get_inputs()]

    def predict(*inputs: np.ndarray) -> np.ndarray:
        (logits,) = session.run(["logits"], dict(zip(names, inputs, strict=True)))
        return logits

    return predict


def _add_logits(graph: Graph, network: Network, values: str, lengths: str) -> str:
    """Adds all members of the ensemble, and returns the logits of the ensemble.

    `values` has shape [time, examples, features], and `lengths` is int64 [examples].
    """
    config = network.config.model
    members = split_ensemble(network.params)
    if config.deltas:  # all members have the same `std`
        values = _add_deltas(graph, values, members[0][DELTAS]["std"])
    is_valid = add_validity_mask(graph, values, lengths)
    values = graph.Where(is_valid, values, 0.0)
    if config.window > 1:
        values = _add_windows(graph, values, config.window, config.stride)
        lengths = graph.Div(graph.Add(lengths, config.stride - 1), config.stride)
    member_logits = []
    for params in members:
        if config.is_closed_form:
            hidden = add_filters(graph, params[FILTERS], values, lengths)
        else:
            hidden = _add_recurrent_layers(graph, config, params, values, lengths)
        head = params["head"]
        member_logits.append(graph.Gemm(hidden, head["kernel"], head["bias"]))
    return _combine_members(graph, member_logits)


def _combine_members(graph: Graph, member_logits: list[str]) -> str:
    """Combines logits like `combine_members` (`rnnmnist.evaluation.probabilities`)."""
    if len(member_logits) == 1:
        return member_logits[0]
    logits_with_axis = [graph.Unsqueeze(logits, [0]) for logits in member_logits]
    log_probs = graph.LogSoftmax(graph.Concat(*logits_with_axis, axis=0), axis=-1)
    log_sum = graph.ReduceLogSumExp(log_probs, [0], keepdims=0)
    return graph.Sub(log_sum, np.log(len(member_logits)))


def _add_recurrent_layers(
    graph: Graph, config: RunModelConfig, params: Params, values: str, lengths: str
) -> str:
    """Adds the recurrent layers, and returns the head's inputs, [examples, hidden]."""
    add_direction = add_layers if config.is_linear else add_cell
    outputs: list[str] = []  # one per direction, in the original order of time steps
    for forward_name, *backward_names in layer_names(config):
        outputs = [add_direction(graph, config, params[forward_name], values)]
        for name in backward_names:
            reversed_values = _reverse(graph, values, lengths)
            hidden = add_direction(graph, config, params[name], reversed_values)
            outputs.append(_reverse(graph, hidden, lengths))
        values = graph.Concat(*outputs, axis=2)
    if config.pooling == "mean":
        is_valid = add_validity_mask(graph, values, lengths)
        totals = graph.ReduceSum(graph.Where(is_valid, values, 0.0), [0], keepdims=0)
        return divide_by_lengths(graph, totals, lengths)
    # The forward direction ends at the last time step, and the backward direction at
    # the first time step.
    forward, *backward = outputs
    ends = [_reverse(graph, forward, lengths), *backward]
    return graph.Concat(*[graph.Gather(end, 0, axis=0) for end in ends], axis=1)


# Converts the input `images` to [time, examples, features].
def _add_images(graph: Graph, network: Network) -> str:
    scaled = graph.Div(graph.Cast("images", to=TensorProto.FLOAT), 255.0)
    pixels = graph.Gather(graph.Flatten(scaled), network.pixel_order, axis=1)
    return graph.Transpose(pixels, perm=[1, 0, 2])


def _add_sequences(graph: Graph, network: Network) -> str:
    """Normalizes sequences like `Normalization`. Returns [time, examples, features].

    The padding is not set to 0.
    """
    mean, std, missing, _ = network.normalization
    values = graph.Cast("sequences", to=TensorProto.DOUBLE)
    values = graph.Sub(values, graph.constant(mean, np.float64))
    values = graph.Div(values, graph.constant(std, np.float64))
    values = graph.Cast(values, to=TensorProto.FLOAT)
    values = graph.Transpose(values, perm=[1, 0, 2])
    if missing == "forward_fill":
        body = (
            "step (float[n, features] before, float[n, features] value) "
            "=> (float[n, features] after, float[n, features] copy) { "
            "is_missing = IsNaN(value) "
            "after = Where(is_missing, before, value) "
            "copy = Identity(after) }"
        )
        _, values = graph.scan(body, values, state_shapes=[[len(mean)]])
    if missing == "zero":
        values = graph.Where(graph.IsNaN(values), 0.0, values)
    return values


def _add_deltas(graph: Graph, values: str, std: np.ndarray) -> str:
    """Appends delta features to [time, examples, features], like `Deltas`."""
    # The delta of the first time step is 0, because padding repeats this time step.
    padded = graph.Pad(values, [1, 0, 0, 0, 0, 0], mode="edge")
    previous = graph.Slice(padded, [0], [-1])
    deltas = graph.Div(graph.Sub(values, previous), std)
    return graph.Concat(values, deltas, axis=2)


def _add_windows(graph: Graph, inputs: str, size: int, stride: int) -> str:
    """Extracts sliding windows from [time, examples, features], like `Windows`.

    Returns [windows, examples, size * features].
    """
    padded = graph.Pad(inputs, [size - stride, 0, 0, stride, 0, 0])
    # The time steps at the same position in all windows.
    time_steps = [
        graph.Slice(padded, [position], [position - size], [0], [stride])
        for position in range(size)
    ]
    return graph.Concat(*time_steps, axis=2)


def _reverse(graph: Graph, sequences: str, lengths: str) -> str:
    """Reverses the time steps of each sequence. The padding stays at the end."""
    return graph.ReverseSequence(sequences, lengths, time_axis=0, batch_axis=1)
