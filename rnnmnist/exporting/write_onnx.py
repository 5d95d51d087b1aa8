"""Writes ONNX models: for whole sequences, and for streams.

Both models contain the same nodes. The streaming model reads a sequence of one time
step, and maps the state before it to the state after it.
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

# Versions from 2023, which older runtimes also accept.
OPSET = 20
IR_VERSION = 9


def write(run: Network, path: Path) -> None:
    """Writes the ONNX model of a network for whole sequences.

    The inputs are `images`, or `sequences` and `lengths`, in the format of
    `exported_inputs`, with any number of examples and time steps. The outputs are
    `logits` and `probabilities`, float32 [examples, classes]. The metadata include the
    classes.

    Raises:
        UserError: if the cell or the network is user-defined, because ONNX has no
            operator for it.
    """
    for name, value in run.config.model.user_functions.items():
        raise UserError(
            f"format: only stablehlo supports {name}={value}; use --format=stablehlo"
        )
    task = run.task
    if task.image_shape:
        graph = Graph("images", streaming=False)
        inputs = [_value("images", TensorProto.UINT8, *task.image_shape)]
        values = _add_images(graph, run)
        lengths = graph.Expand([task.time_steps], graph.num_examples)
    else:
        graph = Graph("sequences", streaming=False)
        inputs = [
            _value("sequences", TensorProto.FLOAT, "time", task.features),
            _value("lengths", TensorProto.INT32),
        ]
        values = _add_sequences(graph, run, "sequences")
        lengths = graph.Cast("lengths", to=TensorProto.INT64)
    _save(graph, run, inputs, values, lengths, path)


def write_step(run: Network, path: Path) -> None:
    """Writes the streaming ONNX model, which reads one time step like `Network.step`.

    `write` must support the network, and the network must not be bidirectional.

    The inputs are `state`, float32 [examples, size], which is 0 before the first time
    step, and `features`, float32 [examples, features], one time step of
    `streamed_inputs`. The outputs are `next_state`, and `logits` and `probabilities` of
    sequences that end with this time step. The metadata are the same as in `write`.
    """
    graph = Graph("features", streaming=True)
    inputs = [_value("features", TensorProto.FLOAT, run.task.features)]
    sequences = graph.Unsqueeze("features", [1])
    if run.task.image_shape:
        values = graph.Transpose(sequences, perm=[1, 0, 2])
    else:
        values = _add_sequences(graph, run, sequences)
    lengths = graph.Expand([1], graph.num_examples)
    _save(graph, run, inputs, values, lengths, path)


def _save(
    graph: Graph,
    run: Network,
    inputs: list[onnx.ValueInfoProto],
    values: str,
    lengths: str,
    path: Path,
) -> None:
    """Adds the network and its outputs to the graph, and saves the model."""
    logits = _add_logits(graph, run, values, lengths)
    graph.Div(logits, run.temperature, name="logits")
    graph.Softmax("logits", name="probabilities", axis=-1)
    outputs = [
        _value(name, TensorProto.FLOAT, len(run.task.classes))
        for name in ("logits", "probabilities")
    ]
    if graph.streaming:
        graph.finish_state()
        inputs = [_value("state", TensorProto.FLOAT, graph.state_size), *inputs]
        outputs.append(_value("next_state", TensorProto.FLOAT, graph.state_size))
    model = helper.make_model(
        helper.make_graph(graph.nodes, "rnnmnist", inputs, outputs, graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="rnnmnist",
    )
    onnx.checker.check_model(model, full_check=True)
    metadata = {
        "classes": run.task.classes,
        "features": run.task.feature_names,
        "trained_on": run.task.name,
        "step": run.checkpoint_step,
        "params_sha256": run.params_sha256,
    }
    values_as_json = {key: json.dumps(value) for key, value in metadata.items()}
    helper.set_model_props(model, values_as_json)
    onnx.save(model, path)


# Declares an input or output, whose first axis is the examples.
def _value(name: str, dtype: int, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, ["examples", *shape])


def _add_logits(graph: Graph, run: Network, values: str, lengths: str) -> str:
    """Adds all members of the ensemble; returns the logits of the ensemble.

    Values are [time, examples, features], and lengths are int64 [examples].
    """
    config = run.config.model
    members = split_ensemble(jax.device_get(run.params))
    if config.deltas:  # all members have the same `std`
        values = _add_deltas(graph, values, members[0][DELTAS]["std"])
    is_valid = graph.Less(add_times(graph, values), lengths)
    values = graph.Where(graph.Unsqueeze(is_valid, [2]), values, 0.0)
    # The recurrent operators would hide NaN and infinite inputs. Times 0, these inputs
    # are NaN and all others are 0, so the sum of the products is added to the logits.
    zero_or_nan_before = graph.read_state(1)
    zeros_or_nan = graph.ReduceSum(graph.Mul(values, 0.0), [0, 2], keepdims=0)
    zero_or_nan = graph.Add(zero_or_nan_before, graph.Unsqueeze(zeros_or_nan, [1]))
    graph.write_state(zero_or_nan_before, zero_or_nan)
    if config.window > 1 and graph.streaming:
        features = run.task.features * (2 if config.deltas else 1)
        values = _add_next_window(graph, values, features, config.window, config.stride)
    elif config.window > 1:
        values = _add_windows(graph, values, config.window, config.stride)
        lengths = graph.Div(graph.Add(lengths, config.stride - 1), config.stride)
    logits = _combine_members(
        graph,
        [_add_network(graph, config, params, values, lengths) for params in members],
    )
    return graph.Add(logits, zero_or_nan)


def _combine_members(graph: Graph, logits: list[str]) -> str:
    if len(logits) == 1:
        return logits[0]
    stacked = [graph.Unsqueeze(member, [0]) for member in logits]
    logs = graph.LogSoftmax(graph.Concat(*stacked, axis=0), axis=-1)
    log_sums = graph.ReduceLogSumExp(logs, [0], keepdims=0)
    return graph.Sub(log_sums, np.log(len(logits)))


def _add_network(
    graph: Graph, config: RunModelConfig, params: Params, values: str, lengths: str
) -> str:
    """Adds one network; maps [time, examples, features] to logits."""
    if config.is_closed_form:
        hidden = add_filters(graph, params[FILTERS], values, lengths)
    else:
        hidden = _add_recurrent_layer(graph, config, params, values, lengths)
    return graph.Gemm(hidden, params["head"]["kernel"], params["head"]["bias"])


def _add_recurrent_layer(
    graph: Graph, config: RunModelConfig, params: Params, values: str, lengths: str
) -> str:
    """Adds the recurrent layers; returns the inputs of the head, [examples, hidden]."""
    add_direction = add_layers if config.is_linear else add_cell
    outputs: list[str] = []  # one per direction, in the original time order
    for forward, *backward in layer_names(config):
        outputs = [add_direction(graph, config, params[forward], values)]
        for name in backward:
            reverse = _reverse(graph, values, lengths)
            hidden = add_direction(graph, config, params[name], reverse)
            outputs.append(_reverse(graph, hidden, lengths))
        values = graph.Concat(*outputs, axis=2)
    if config.pooling == "mean":
        return _add_mean(graph, values, lengths, config.hidden_size * len(outputs))
    first, *others = outputs
    ends = [graph.Gather(hidden, 0, axis=0) for hidden in others]
    return graph.Concat(_add_last(graph, first, lengths), *ends, axis=1)


def _add_last(graph: Graph, sequences: str, lengths: str) -> str:
    """Selects the last time step before the padding, [examples, features]."""
    return graph.Gather(_reverse(graph, sequences, lengths), 0, axis=0)


def _add_mean(graph: Graph, hidden: str, lengths: str, size: int) -> str:
    """Adds the mean over the time steps before the padding, like `MeanPooling`."""
    before = graph.read_state(size)
    total = graph.Add(before, _add_last(graph, graph.CumSum(hidden, 0), lengths))
    graph.write_state(before, total)
    return graph.Div(total, count_time_steps(graph, lengths))


# Converts the input `images` to [time, examples, features].
def _add_images(graph: Graph, run: Network) -> str:
    levels = graph.Div(graph.Cast("images", to=TensorProto.FLOAT), 255.0)
    pixels = graph.Gather(graph.Flatten(levels), run.pixel_order, axis=1)
    return graph.Transpose(pixels, perm=[1, 0, 2])


def _add_sequences(graph: Graph, run: Network, sequences: str) -> str:
    """Normalizes sequences like `Normalization`; returns [time, examples, features].

    The padding is not set to 0.
    """
    mean, std, missing, _ = run.normalization
    values = graph.Cast(sequences, to=TensorProto.DOUBLE)
    values = graph.Sub(values, graph.constant(mean, np.float64))
    values = graph.Div(values, graph.constant(std, np.float64))
    values = graph.Cast(values, to=TensorProto.FLOAT)
    values = graph.Transpose(values, perm=[1, 0, 2])
    if missing == "forward_fill":
        step = "is_missing = IsNaN(value) after = Where(is_missing, before, value)"
        values = graph.scan(step, values, graph.read_state(len(mean)))
    if missing == "zero":
        values = graph.Where(graph.IsNaN(values), 0.0, values)
    return values


def _add_deltas(graph: Graph, values: str, std: np.ndarray) -> str:
    """Appends delta features to [time, examples, features], like `Deltas`."""
    started = graph.read_state(1)  # 0 before the first time step, 1 afterwards
    last_inputs = graph.read_state(len(std))
    # A copy precedes the first time step, so that its delta is 0.
    is_first = graph.Equal(started, 0.0)
    first = graph.Where(is_first, graph.Slice(values, [0], [1]), last_inputs)
    previous = graph.Concat(first, graph.Slice(values, [0], [-1]), axis=0)
    deltas = graph.Div(graph.Sub(values, previous), std)
    graph.write_state(started, graph.Max(started, 1.0))
    graph.write_state(last_inputs, graph.Gather(values, -1, axis=0))
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

    Inputs are [1, examples, features], and the window is [1, examples, size *
    features]. Later states are updated only when the window is complete.
    """
    since_full = graph.read_state(1)  # time steps since the last complete window
    before = graph.read_state(size * features)
    time_of_value = np.arange(size).repeat(features).astype(np.float32)
    is_here = graph.Equal(graph.Add(since_full, size - float(stride)), time_of_value)
    copies = graph.Concat(*[graph.Squeeze(inputs, [0])] * size, axis=1)
    window = graph.Where(is_here, copies, before)
    is_full = graph.Equal(since_full, stride - 1.0)
    kept = graph.Slice(window, [stride * features], [size * features], [1])
    shifted = graph.Pad(kept, [0, 0, 0, stride * features])
    graph.write_state(before, graph.Where(is_full, shifted, window))
    graph.write_state(since_full, graph.Where(is_full, 0.0, graph.Add(since_full, 1.0)))
    graph.update_mask = is_full
    return graph.Unsqueeze(window, [0])


def _reverse(graph: Graph, sequences: str, lengths: str) -> str:
    """Reverses [time, examples, features] in time, except for the padding."""
    return graph.ReverseSequence(sequences, lengths, time_axis=0, batch_axis=1)
