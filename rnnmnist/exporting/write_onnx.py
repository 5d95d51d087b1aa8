"""Writes the ONNX model: the steps of a `DeployedNetwork`, and the probabilities.

References:
    ONNX operators, https://onnx.ai/onnx/operators/, such as `LSTM`, `GRU` and `Scan`.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import msgspec
import numpy as np
import onnx.parser
from numpy.typing import ArrayLike, DTypeLike
from onnx import TensorProto, helper, numpy_helper

from rnnmnist.config.resolving import RunModelConfig
from rnnmnist.config.schema import DATA_PATHS
from rnnmnist.errors import UserError
from rnnmnist.evaluation.network import TrainedNetwork
from rnnmnist.models.cells import BACKWARD, FILTERS
from rnnmnist.models.classifier import Params
from rnnmnist.models.filters import ORDER
from rnnmnist.runtime.mesh import split_ensemble

# These versions are of 2022, so that older runtimes accept the model.
OPSET = 17
IR_VERSION = 8
# The gates of each cell that has an operator, in ONNX's order, with Flax's names.
GATES = {"lstm": ("i", "o", "f", "g"), "gru": ("z", "r", "n"), "rnn": ("",)}
CELLS = (*GATES, "lru", "filters")


class Graph:
    """Nodes and constants, in the order in which they are added.

    `graph.Mul(x, 2.0)` adds a node with the operator `Mul`, as `add` does.
    """

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def __getattr__(self, operator: str) -> Callable[..., str]:
        return functools.partial(self.add, operator)

    def constant(self, value: ArrayLike, dtype: DTypeLike | None = None) -> str:
        """Adds a constant, int64 or by default float32, and returns its name."""
        array = np.asarray(value)
        if dtype is None:
            dtype = np.int64 if array.dtype.kind == "i" else np.float32
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array.astype(dtype), name))
        return name

    def add(
        self,
        operator: str,
        *inputs: ArrayLike,
        name: str = "",
        **attributes: Any,  # `make_node` has parameters of other types among them
    ) -> str:
        """Adds a node with one output and returns its name.

        Inputs are names, or values that become constants.
        """
        names = [x if isinstance(x, str) else self.constant(x) for x in inputs]
        if not name:
            name = f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, names, [name], **attributes))
        return name

    def split(self, value: str) -> list[str]:
        """Adds a node that halves the last axis and returns the names of the halves."""
        names = [f"half_{len(self.nodes)}_{index}" for index in range(2)]
        self.nodes.append(helper.make_node("Split", [value], names, axis=-1))
        return names

    def scan(self, step: str, value: str) -> str:
        """Adds a loop over time from a state of 0 and returns the name of the states.

        `step` has nodes in ONNX's text format. They compute the state `after` a time
        step from the one `before` it and from the `value` of the time step. Values and
        states are [time, examples, features].
        """
        body = onnx.parser.parse_graph(
            "step (float[n, size] before, float[n, size] value) "
            "=> (float[n, size] after, float[n, size] state) "
            f"{{ {step} state = Identity(after) }}"
        )
        start = self.ConstantOfShape(self.Shape(value, start=1))
        outputs = [f"{name}_{len(self.nodes)}" for name in ("last", "states")]
        node = helper.make_node(
            "Scan", [start, value], outputs, body=body, num_scan_inputs=1
        )
        self.nodes.append(node)
        return outputs[1]


def write(network: TrainedNetwork, path: Path) -> None:
    """Writes the model of a network.

    The inputs are `images`, or `sequences` and `lengths`, as `exported_inputs` returns
    them, for any number of examples and time steps. The outputs are `logits` and
    `probabilities`, float32 [examples, classes]. The metadata have the classes.

    Raises:
        UserError: if the cell is none of `CELLS`.
    """
    cell = network.config.model.cell
    if cell not in CELLS:
        raise UserError(
            f"format: only stablehlo supports model.cell={cell}; use --format=stablehlo"
        )
    graph = Graph()
    inputs, values, lengths = _add_inputs(graph, network)
    logits = _add_logits(graph, network, values, lengths)
    graph.Mul(logits, network.multiplier, name="logits")
    graph.Softmax("logits", name="probabilities", axis=-1)
    outputs = [
        _value(name, TensorProto.FLOAT, len(network.task.classes))
        for name in ("logits", "probabilities")
    ]
    model = helper.make_model(
        helper.make_graph(graph.nodes, "rnnmnist", inputs, outputs, graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="rnnmnist",
    )
    onnx.checker.check_model(model, full_check=True)
    helper.set_model_props(model, _metadata(network))
    onnx.save(model, path)


def _metadata(network: TrainedNetwork) -> dict[str, str]:
    """Returns what the network is and where it comes from; the values are JSON."""
    # The names of folders can be private.
    config = network.config.replace(dict.fromkeys(DATA_PATHS))
    content = {
        "classes": network.task.classes,
        "features": network.task.feature_names,
        "trained_on": network.task.name,
        "step": network.checkpoint_step,
        "params_sha256": network.params_sha256,
        "config": msgspec.to_builtins(config),
    }
    return {key: json.dumps(value) for key, value in content.items()}


def _value(name: str, dtype: int, *shape: int | str) -> onnx.ValueInfoProto:
    """Describes an input or output whose first axis is that of examples."""
    return helper.make_tensor_value_info(name, dtype, ["examples", *shape])


def _add_inputs(
    graph: Graph, network: TrainedNetwork
) -> tuple[list[onnx.ValueInfoProto], str, str]:
    """Adds the inputs of the model.

    Returns them, what the classifier reads, [time, examples, features], and lengths.
    """
    task = network.task
    if task.image_shape:
        inputs = [_value("images", TensorProto.UINT8, *task.image_shape)]
        values = _add_images(graph, network)
        lengths = graph.Expand([task.time_steps], graph.Shape("images", end=1))
    else:
        inputs = [
            _value("sequences", TensorProto.FLOAT, "time", task.features),
            _value("lengths", TensorProto.INT32),
        ]
        values = _add_sequences(graph, network)
        lengths = graph.Cast("lengths", to=TensorProto.INT64)
    return inputs, values, lengths


def _add_logits(
    graph: Graph, network: TrainedNetwork, values: str, lengths: str
) -> str:
    """Adds all members of the network; returns the logits of a `DeployedNetwork`."""
    config = network.config.model
    members = split_ensemble(jax.device_get(network.params))
    if config.differences:  # the nodes compute what `add_differences` does
        padded = graph.Pad(values, [1, 0, 0, 0, 0, 0], mode="edge")
        before = graph.Slice(padded, [0], [-1])
        std = members[0]["difference_std"]  # it is the same for all members
        differences = graph.Div(graph.Sub(values, before), std)
        values = graph.Concat(values, differences, axis=2)
    is_used = graph.Less(_add_times(graph, values, 1), lengths)
    values = graph.Where(graph.Unsqueeze(is_used, [2]), values, 0.0)
    # An input that is NaN or infinite is NaN times 0, the others are 0. The recurrent
    # operators would hide it, so the sum is added to the logits.
    zero_or_nan = graph.ReduceSum(graph.Mul(values, 0.0), [0, 2], keepdims=0)
    stride = config.stride
    if config.window > 1:
        values = _add_windows(graph, values, config.window, stride)
        lengths = graph.Div(graph.Add(lengths, stride - 1), stride)
    logits = _combine_members(
        graph,
        [_add_network(graph, config, params, values, lengths) for params in members],
    )
    return graph.Add(logits, graph.Unsqueeze(zero_or_nan, [1]))


def _combine_members(graph: Graph, logits: list[str]) -> str:
    """Combines the logits of each member as `combine_members` does."""
    if len(logits) == 1:
        return logits[0]
    stacked = [graph.Unsqueeze(member, [0]) for member in logits]
    logs = graph.LogSoftmax(graph.Concat(*stacked, axis=0), axis=-1)
    log_sums = graph.ReduceLogSumExp(logs, axes=[0], keepdims=0)
    return graph.Sub(log_sums, np.log(len(logits)))


def _add_network(
    graph: Graph, config: RunModelConfig, params: Params, values: str, lengths: str
) -> str:
    """Adds a network for [time, examples, features]; returns its logits."""
    if config.fitting == "closed_form":
        shares = _add_filters(graph, params[FILTERS], values, lengths)
        return _add_head(graph, params, shares)
    if config.is_linear:
        name = "layers"
        add_recurrence = _add_layers
    else:
        name = "cell"
        add_recurrence = _add_cell
    directions = [(name, values)]
    if config.bidirectional:
        directions.append((BACKWARD + name, _reverse(graph, values, lengths)))
    pooled = []
    for key, inputs in directions:
        # [time, examples, hidden]
        hidden = add_recurrence(graph, config, params[key], inputs)
        if config.pooling == "mean":
            hidden = graph.CumSum(hidden, 0)
        last = graph.Gather(_reverse(graph, hidden, lengths), 0, axis=0)
        if config.pooling == "mean":
            count = graph.Cast(lengths, to=TensorProto.FLOAT)
            last = graph.Div(last, graph.Unsqueeze(count, [1]))
        pooled.append(last)
    return _add_head(graph, params, graph.Concat(*pooled, axis=1))


def _add_head(graph: Graph, params: Params, read: str) -> str:
    """Adds the head, which reads states [examples, hidden]; returns its logits."""
    return graph.Gemm(read, params["head"]["kernel"], params["head"]["bias"])


def _add_images(graph: Graph, network: TrainedNetwork) -> str:
    """Converts `images` to inputs of the network, [time, examples, features]."""
    levels = graph.Div(graph.Cast("images", to=TensorProto.FLOAT), 255.0)
    pixels = graph.Gather(graph.Flatten(levels), network.pixel_order, axis=1)
    return graph.Transpose(pixels, perm=[1, 0, 2])


def _add_sequences(graph: Graph, network: TrainedNetwork) -> str:
    """Converts `sequences` to [time, examples, features], as `Normalization` does.

    The padding keeps its values.
    """
    mean, std, missing, _ = network.normalization
    values = graph.Cast("sequences", to=TensorProto.DOUBLE)
    values = graph.Sub(values, graph.constant(mean, np.float64))
    values = graph.Div(values, graph.constant(std, np.float64))
    values = graph.Cast(values, to=TensorProto.FLOAT)
    values = graph.Transpose(values, perm=[1, 0, 2])
    if missing == "forward_fill":
        step = "is_missing = IsNaN(value) after = Where(is_missing, before, value)"
        values = graph.scan(step, values)
    if missing == "zero":
        values = graph.Where(graph.IsNaN(values), 0.0, values)
    return values


def _add_times(graph: Graph, values: str, step: int) -> str:
    """Adds the index of every `step`th time step of [time, ...], as [times, 1]."""
    time = graph.Squeeze(graph.Shape(values, end=1))
    return graph.Unsqueeze(graph.Range(0, time, step), [1])


def _add_windows(graph: Graph, inputs: str, size: int, stride: int) -> str:
    """Adds the windows of [time, examples, features], as `Windows` reads them.

    The result is [windows, examples, size * features].
    """
    padded = graph.Pad(inputs, [size - stride, 0, 0, stride - 1, 0, 0])
    indices = graph.Add(_add_times(graph, inputs, stride), np.arange(size))
    windows = graph.Transpose(graph.Gather(padded, indices), perm=[0, 2, 1, 3])
    return graph.Reshape(windows, [0, 0, -1])


def _add_cell(graph: Graph, config: RunModelConfig, params: Params, inputs: str) -> str:
    """Adds a recurrent operator for [time, examples, features]; returns its states."""
    units = config.hidden_size
    kernels = []
    biases = []
    for side in "ih":  # Flax's names of the kernels for inputs and for the hidden state
        layers = [params[f"{side}{gate}"] for gate in GATES[config.cell]]
        kernels.append(np.concatenate([layer["kernel"].T for layer in layers]))
        biases += [layer.get("bias", np.zeros(units)) for layer in layers]
    # The first axis is that of directions.
    arrays = [array[None] for array in (*kernels, np.concatenate(biases))]
    add = functools.partial(graph.add, config.cell.upper(), inputs, *arrays)
    if config.cell == "gru":
        # Flax's GRU multiplies by the reset gate after the matrix product.
        states = add(hidden_size=units, linear_before_reset=1)
    else:
        states = add(hidden_size=units)
    return graph.Squeeze(states, [1])


def _add_layers(
    graph: Graph, config: RunModelConfig, params: Params, inputs: str
) -> str:
    """Adds `ResidualLayers` for [time, examples, features]; returns their outputs."""
    hidden = _add_dense(graph, params["encoder"], inputs)
    for index in range(config.num_layers):
        layer = params[f"layer_{index}"]
        scale, bias = layer["norm"]["scale"], layer["norm"]["bias"]
        outputs = graph.LayerNormalization(hidden, scale, bias, epsilon=1e-6)
        outputs = _add_lru(graph, layer["recurrence"], outputs)
        outputs = _add_dense(graph, layer["glu"], _add_gelu(graph, outputs))
        value, gate = graph.split(outputs)
        hidden = graph.Add(hidden, graph.Mul(value, graph.Sigmoid(gate)))
    return hidden


def _add_filters(graph: Graph, params: Params, inputs: str, lengths: str) -> str:
    """Adds a `FilterBank` for [time, examples, features]; returns its shares.

    They are [examples, shares].
    """
    thresholds, filters = params["thresholds"].shape
    names = _filter_states()
    is_read = graph.Less(_add_times(graph, inputs, 1), lengths)
    examples = graph.Shape(inputs, start=1, end=2)
    start = graph.ConstantOfShape(graph.Concat(examples, [filters], axis=0))
    start_counts = graph.ConstantOfShape(
        graph.Concat(examples, [thresholds, filters], axis=0)
    )
    outputs = [f"{name}_{len(graph.nodes)}" for name in (*names, "counts")]
    node = helper.make_node(
        "Scan",
        [
            *[start] * len(names),
            start_counts,
            inputs,
            graph.Unsqueeze(is_read, [2, 3]),
        ],
        outputs,
        body=_make_filter_step(graph, params),
        num_scan_inputs=2,
    )
    graph.nodes.append(node)
    divisor = np.float32(params["divisor"])
    if divisor > 0:
        return graph.Div(graph.Flatten(outputs[-1]), divisor)
    time_steps = graph.Cast(lengths, to=TensorProto.FLOAT)
    return graph.Div(graph.Flatten(outputs[-1]), graph.Unsqueeze(time_steps, [1]))


def _filter_states() -> list[str]:
    """Returns the names of the states of filters: both parts of each recurrence."""
    parts = ("real", "imaginary")
    return [f"{part}_{stage}" for stage in range(1, ORDER + 1) for part in parts]


def _make_filter_step(graph: Graph, params: Params) -> onnx.GraphProto:
    """Returns a time step of a `FilterBank`, the body of a loop.

    It maps the states and the counts before the time step, its value [n, features], and
    whether it is before the padding, to the states and the counts after it.
    """
    thresholds, filters = params["thresholds"].shape
    constants = {
        name: graph.constant(value)
        for name, value in {
            "weights": params["weights"],
            "pole_real": params["pole"][0],
            "pole_imaginary": params["pole"][1],
            "phase_real": params["phase"][0],
            "phase_imaginary": params["phase"][1],
            "thresholds": params["thresholds"],
        }.items()
    }
    step = ["real_0 = MatMul(value, {weights})", "imaginary_0 = Sub(real_0, real_0)"]
    for stage in range(1, ORDER + 1):
        step += [
            f"rr_{stage} = Mul({{pole_real}}, before_real_{stage})",
            f"ii_{stage} = Mul({{pole_imaginary}}, before_imaginary_{stage})",
            f"ri_{stage} = Mul({{pole_real}}, before_imaginary_{stage})",
            f"ir_{stage} = Mul({{pole_imaginary}}, before_real_{stage})",
            f"real_part_{stage} = Sub(rr_{stage}, ii_{stage})",
            f"imaginary_part_{stage} = Add(ri_{stage}, ir_{stage})",
            f"real_{stage} = Add(real_{stage - 1}, real_part_{stage})",
            f"imaginary_{stage} = Add(imaginary_{stage - 1}, imaginary_part_{stage})",
        ]
    step += [
        f"output_real = Mul({{phase_real}}, real_{ORDER})",
        f"output_imaginary = Mul({{phase_imaginary}}, imaginary_{ORDER})",
        "output = Sub(output_real, output_imaginary)",
        "axis = Constant<value_ints = [1]>()",
        "column = Unsqueeze(output, axis)",
        "is_above = Greater(column, {thresholds})",
        "is_counted = And(is_above, is_read)",
        "counted = Cast<to = 1>(is_counted)",
        "counts = Add(before_counts, counted)",
    ]
    state = f"float[n, {filters}]"
    names = _filter_states()
    before = [f"{state} before_{name}" for name in names]
    after = [f"{state} {name}" for name in names]
    counts = f"float[n, {thresholds}, {filters}]"
    features = len(params["weights"])
    return onnx.parser.parse_graph(
        f"step ({', '.join(before)}, {counts} before_counts, "
        f"float[n, {features}] value, bool[n, 1, 1] is_read) "
        f"=> ({', '.join(after)}, {counts} counts) "
        f"{{ {' '.join(step).format(**constants)} }}"
    )


def _add_gelu(graph: Graph, x: str) -> str:
    """Adds x sigmoid(a x + b x^3), Flax's GELU; ONNX has one since opset 20 only."""
    a = np.sqrt(8 / np.pi)
    slope = graph.Add(graph.Mul(graph.Mul(x, x), 0.044715 * a), a)
    return graph.Mul(x, graph.Sigmoid(graph.Mul(x, slope)))


def _add_lru(graph: Graph, params: Params, inputs: str) -> str:
    """Adds an `LRU`; returns its outputs, [time, examples, features].

    The real and the imaginary parts of a state are side by side, and both are
    multiplied by `real`; `swapped` by `imaginary` is what each adds to the other.
    """
    decay = np.exp(-np.exp(params["nu_log"]) + 1j * np.exp(params["theta_log"]))
    size = len(decay)
    real = graph.constant(np.tile(decay.real, 2))
    imaginary = graph.constant(np.concatenate([-decay.imag, decay.imag]))
    order = graph.constant(np.roll(np.arange(2 * size), size))
    scale = np.tile(np.exp(params["gamma_log"]), 2)
    driven = graph.Mul(_add_dense(graph, params["input"], inputs), scale)
    step = (
        f"kept = Mul({real}, before) swapped = Gather<axis=1>(before, {order}) "
        f"turned = Mul({imaginary}, swapped) sum = Add(kept, turned) "
        "after = Add(sum, value)"
    )
    states = graph.scan(step, driven)
    outputs = _add_dense(graph, params["output"], states)
    return graph.Add(outputs, graph.Mul(inputs, params["skip"]))


def _add_dense(graph: Graph, params: Params, inputs: str) -> str:
    """Adds a `Dense` of `rnnmnist.models.linear` over the last axis."""
    outputs = graph.MatMul(inputs, params["kernel"].T)
    return graph.Add(outputs, params["bias"]) if "bias" in params else outputs


def _reverse(graph: Graph, sequences: str, lengths: str) -> str:
    """Reverses the time steps before the padding of [time, examples, features]."""
    return graph.ReverseSequence(sequences, lengths, time_axis=0, batch_axis=1)
