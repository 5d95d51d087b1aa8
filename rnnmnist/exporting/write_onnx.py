"""Writes ONNX models for whole sequences and for streams.

Both models compute the same function. The streaming model reads sequences of one time
step, and maps the state before the time step to the state after it.
"""

import json
from pathlib import Path

import jax
import numpy as np
import onnx
from onnx import TensorProto, helper

from rnnmnist.config.resolving import RunModelConfig
from rnnmnist.errors import UserError
from rnnmnist.evaluation.network import Network
from rnnmnist.exporting.onnx_graph import Graph
from rnnmnist.exporting.onnx_layers import (
    add_cell,
    add_filters,
    add_layers,
    add_times,
    count_time_steps,
)
from rnnmnist.models.cells import DELTAS, FILTERS, layer_names
from rnnmnist.models.parameters import Params
from rnnmnist.runtime.mesh import split_ensemble

# These versions are from 2023, so that older runtimes can load the models.
OPSET = 20
IR_VERSION = 9


def write(network: Network, path: Path) -> None:
    """Writes the ONNX model of a network for whole sequences.

    The inputs are `images`, or `sequences` and `lengths`, in the format of
    `exported_inputs`, with any number of examples and time steps. The outputs are
    `logits` and `probabilities`, float32 [examples, classes]. The metadata contains the
    classes.

    Raises:
        UserError: if the cell or the network is user-defined, because ONNX has no
            operator for it.
    """
    for name, value in network.config.model.user_functions.items():
        raise UserError(
            f"format: only stablehlo supports {name}={value}; use --format=stablehlo"
        )
    task = network.task
    if task.image_shape:
        graph = Graph("images", streaming=False)
        inputs = [_declare_tensor("images", TensorProto.UINT8, *task.image_shape)]
        values = _add_images(graph, network)
        lengths = graph.Expand([task.time_steps], graph.num_examples)
    else:
        graph = Graph("sequences", streaming=False)
        inputs = [
            _declare_tensor("sequences", TensorProto.FLOAT, "time", task.features),
            _declare_tensor("lengths", TensorProto.INT32),
        ]
        values = _add_sequences(graph, network, "sequences")
        lengths = graph.Cast("lengths", to=TensorProto.INT64)
    _save(graph, network, inputs, values, lengths, path)


def write_step(network: Network, path: Path) -> None:
    """Writes the streaming ONNX model, which reads one time step like `Network.step`.

    `write` must support the network, and the network must not be bidirectional.

    The inputs are `state`, float32 [examples, size], which is 0 before the first time
    step, and `features`, float32 [examples, features], one time step of
    `streamed_inputs`. The outputs are `next_state`, and `logits` and `probabilities`
    for sequences that end with this time step. The metadata is the same as in `write`.
    """
    graph = Graph("features", streaming=True)
    inputs = [_declare_tensor("features", TensorProto.FLOAT, network.task.features)]
    sequences = graph.Unsqueeze("features", [1])
    if network.task.image_shape:
        values = graph.Transpose(sequences, perm=[1, 0, 2])
    else:
        values = _add_sequences(graph, network, sequences)
    lengths = graph.Expand([1], graph.num_examples)
    _save(graph, network, inputs, values, lengths, path)


def _save(
    graph: Graph,
    network: Network,
    inputs: list[onnx.ValueInfoProto],
    values: str,
    lengths: str,
    path: Path,
) -> None:
    """Adds the network and its outputs to the graph, and saves the model."""
    logits = _add_logits(graph, network, values, lengths)
    graph.Div(logits, network.temperature, name="logits")
    graph.Softmax("logits", name="probabilities", axis=-1)
    outputs = [
        _declare_tensor(name, TensorProto.FLOAT, len(network.task.classes))
        for name in ("logits", "probabilities")
    ]
    if graph.streaming:
        graph.finish_state()
        inputs = [
            _declare_tensor("state", TensorProto.FLOAT, graph.state_size),
            *inputs,
        ]
        outputs.append(
            _declare_tensor("next_state", TensorProto.FLOAT, graph.state_size)
        )
    model = helper.make_model(
        helper.make_graph(graph.nodes, "rnnmnist", inputs, outputs, graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="rnnmnist",
    )
    onnx.checker.check_model(model, full_check=True)
    metadata = {
        "classes": network.task.classes,
        "features": network.task.feature_names,
        "trained_on": network.task.name,
        "step": network.checkpoint_step,
        "params_sha256": network.params_sha256,
    }
    values_as_json = {key: json.dumps(value) for key, value in metadata.items()}
    helper.set_model_props(model, values_as_json)
    onnx.save(model, path)


# Declares an input or output. The first axis indexes examples.
def _declare_tensor(name: str, dtype: int, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, ["examples", *shape])


def _add_logits(graph: Graph, network: Network, values: str, lengths: str) -> str:
    """Adds all members of the ensemble, and returns the logits of the ensemble.

    `values` has shape [time, examples, features], and `lengths` is int64 [examples].
    """
    config = network.config.model
    members = split_ensemble(jax.device_get(network.params))
    if config.deltas:  # all members have the same `std`
        values = _add_deltas(graph, values, members[0][DELTAS]["std"])
    is_valid = graph.Less(add_times(graph, values), lengths)
    values = graph.Where(graph.Unsqueeze(is_valid, [2]), values, 0.0)
    # Recurrent operators can hide NaN and infinite inputs. The product of 0 and an
    # input is NaN if the input is not finite, otherwise 0. Adding the sum of all
    # products to the logits therefore makes them NaN if any input is not finite.
    old_sum = graph.read_state(1)
    block_sum = graph.ReduceSum(graph.Mul(values, 0.0), [0, 2], keepdims=0)
    zero_or_nan = graph.Add(old_sum, graph.Unsqueeze(block_sum, [1]))
    graph.write_state(old_sum, zero_or_nan)
    if config.window > 1 and graph.streaming:
        features = network.task.features * (2 if config.deltas else 1)
        values = _add_next_window(graph, values, features, config.window, config.stride)
    elif config.window > 1:
        values = _add_windows(graph, values, config.window, config.stride)
        lengths = graph.Div(graph.Add(lengths, config.stride - 1), config.stride)
    logits = _combine_members(
        graph,
        [_add_member(graph, config, params, values, lengths) for params in members],
    )
    return graph.Add(logits, zero_or_nan)


def _combine_members(graph: Graph, logits: list[str]) -> str:
    if len(logits) == 1:
        return logits[0]
    logits_with_axis = [graph.Unsqueeze(member_logits, [0]) for member_logits in logits]
    log_probs = graph.LogSoftmax(graph.Concat(*logits_with_axis, axis=0), axis=-1)
    log_sum = graph.ReduceLogSumExp(log_probs, [0], keepdims=0)
    return graph.Sub(log_sum, np.log(len(logits)))


def _add_member(
    graph: Graph, config: RunModelConfig, params: Params, values: str, lengths: str
) -> str:
    """Adds one member of the ensemble, and returns its logits."""
    if config.is_closed_form:
        hidden = add_filters(graph, params[FILTERS], values, lengths)
    else:
        hidden = _add_recurrent_layer(graph, config, params, values, lengths)
    return graph.Gemm(hidden, params["head"]["kernel"], params["head"]["bias"])


def _add_recurrent_layer(
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
        return _add_mean(graph, values, lengths, config.hidden_size * len(outputs))
    forward, *backward = outputs
    first_backward = [graph.Gather(hidden, 0, axis=0) for hidden in backward]
    return graph.Concat(_add_last(graph, forward, lengths), *first_backward, axis=1)


def _add_last(graph: Graph, sequences: str, lengths: str) -> str:
    """Selects the last time step of each sequence, [examples, features]."""
    return graph.Gather(_reverse(graph, sequences, lengths), 0, axis=0)


def _add_mean(graph: Graph, hidden: str, lengths: str, size: int) -> str:
    """Adds the mean over the time steps of each sequence, like `MeanPooling`."""
    total = graph.read_state(size)
    new_total = graph.Add(total, _add_last(graph, graph.CumSum(hidden, 0), lengths))
    graph.write_state(total, new_total)
    return graph.Div(new_total, count_time_steps(graph, lengths))


# Converts the input `images` to [time, examples, features].
def _add_images(graph: Graph, network: Network) -> str:
    scaled = graph.Div(graph.Cast("images", to=TensorProto.FLOAT), 255.0)
    pixels = graph.Gather(graph.Flatten(scaled), network.pixel_order, axis=1)
    return graph.Transpose(pixels, perm=[1, 0, 2])


def _add_sequences(graph: Graph, network: Network, sequences: str) -> str:
    """Normalizes sequences like `Normalization`. Returns [time, examples, features].

    The padding is not set to 0.
    """
    mean, std, missing, _ = network.normalization
    values = graph.Cast(sequences, to=TensorProto.DOUBLE)
    values = graph.Sub(values, graph.constant(mean, np.float64))
    values = graph.Div(values, graph.constant(std, np.float64))
    values = graph.Cast(values, to=TensorProto.FLOAT)
    values = graph.Transpose(values, perm=[1, 0, 2])
    if missing == "forward_fill":
        nodes = "is_missing = IsNaN(value) after = Where(is_missing, before, value)"
        values = graph.scan(nodes, values, graph.read_state(len(mean)))
    if missing == "zero":
        values = graph.Where(graph.IsNaN(values), 0.0, values)
    return values


def _add_deltas(graph: Graph, values: str, std: np.ndarray) -> str:
    """Appends delta features to [time, examples, features], like `Deltas`."""
    has_started = graph.read_state(1)  # 0 before the first time step, 1 afterwards
    last_values = graph.read_state(len(std))
    # The first time step is its own predecessor, so that its delta is 0.
    is_first = graph.Equal(has_started, 0.0)
    predecessor = graph.Where(is_first, graph.Slice(values, [0], [1]), last_values)
    previous = graph.Concat(predecessor, graph.Slice(values, [0], [-1]), axis=0)
    deltas = graph.Div(graph.Sub(values, previous), std)
    graph.write_state(has_started, graph.Max(has_started, 1.0))
    graph.write_state(last_values, graph.Gather(values, -1, axis=0))
    return graph.Concat(values, deltas, axis=2)


def _add_windows(graph: Graph, inputs: str, size: int, stride: int) -> str:
    """Divides [time, examples, features] into windows, like `Windows`.

    Returns [windows, examples, size * features].
    """
    padded = graph.Pad(inputs, [size - stride, 0, 0, stride - 1, 0, 0])
    indices = graph.Add(add_times(graph, inputs, stride), np.arange(size))
    windows = graph.Transpose(graph.Gather(padded, indices), perm=[0, 2, 1, 3])
    return graph.Reshape(windows, [0, 0, -1])


def _add_next_window(
    graph: Graph, inputs: str, features: int, size: int, stride: int
) -> str:
    """Adds the window that ends with this time step, like `Windows.read_time_step`.

    `inputs` has shape [1, examples, features], and the window has shape [1, examples,
    size * features]. States that are added later change only when the window is
    complete.
    """
    since_full = graph.read_state(1)  # time steps since the last complete window
    old_window = graph.read_state(size * features)
    time_of_value = np.arange(size).repeat(features).astype(np.float32)
    is_current = graph.Equal(graph.Add(since_full, size - float(stride)), time_of_value)
    copies = graph.Concat(*[graph.Squeeze(inputs, [0])] * size, axis=1)
    window = graph.Where(is_current, copies, old_window)
    is_full = graph.Equal(since_full, stride - 1.0)
    overlap = graph.Slice(window, [stride * features], [size * features], [1])
    shifted = graph.Pad(overlap, [0, 0, 0, stride * features])
    graph.write_state(old_window, graph.Where(is_full, shifted, window))
    graph.write_state(since_full, graph.Where(is_full, 0.0, graph.Add(since_full, 1.0)))
    graph.update_mask = is_full
    return graph.Unsqueeze(window, [0])


def _reverse(graph: Graph, sequences: str, lengths: str) -> str:
    """Reverses the time steps of each sequence, but not its padding."""
    return graph.ReverseSequence(sequences, lengths, time_axis=0, batch_axis=1)
