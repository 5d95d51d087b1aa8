"""Writes the ONNX model: from raw examples to probabilities.

References:
    ONNX operators, https://onnx.ai/onnx/operators/, such as `LSTM`, `GRU` and `Scan`.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
from onnx import TensorProto, helper, numpy_helper

from rnnmnist.exporting.source import Source
from rnnmnist.models.cells import BACKWARD
from rnnmnist.models.classifier import Params

# Of 2022, so that older runtimes accept the model.
OPSET = 17
IR_VERSION = 8
# The gates of a cell in ONNX's order, by their names in Flax.
GATES = {"lstm": ("i", "o", "f", "g"), "gru": ("z", "r", "n"), "rnn": ("",)}


class Graph:
    """Nodes and constants, in the order in which they are added."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, value: Any, dtype: Any = None) -> str:
        """Adds a constant, int64 or by default float32, and returns its name."""
        array = np.asarray(value)
        if dtype is None:
            dtype = np.int64 if array.dtype.kind == "i" else np.float32
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array.astype(dtype), name))
        return name

    def add(
        self, operator: str, *inputs: Any, name: str = "", **attributes: Any
    ) -> str:
        """Adds a node with one output and returns its name.

        Inputs are names, or values that become constants.
        """
        names = [x if isinstance(x, str) else self.constant(x) for x in inputs]
        name = name or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, names, [name], **attributes))
        return name

    def split(self, value: str) -> list[str]:
        """Adds a node that halves the last axis and returns the names of the halves."""
        names = [f"half_{len(self.nodes)}_{index}" for index in range(2)]
        self.nodes.append(helper.make_node("Split", [value], names, axis=-1))
        return names

    def scan(self, step: str, **inputs: str) -> str:
        """Adds a loop over time from a state of 0 and returns the name of the states.

        `step` has nodes in ONNX's text format. They compute the state `after` a time
        step from the one `before` it and from `inputs`, [time, examples, features].
        """
        names = ", ".join(f"float[n, size] {name}" for name in ("before", *inputs))
        body = onnx.parser.parse_graph(
            f"step ({names}) => (float[n, size] after, float[n, size] state) "
            f"{{ {step} state = Identity(after) }}"
        )
        values = list(inputs.values())
        start = self.add("ConstantOfShape", self.add("Shape", values[0], start=1))
        last, states = (f"{name}_{len(self.nodes)}" for name in ("last", "states"))
        self.nodes.append(
            helper.make_node(
                "Scan",
                [start, *values],
                [last, states],
                body=body,
                num_scan_inputs=len(values),
            )
        )
        return states


def write(source: Source, folder: Path) -> None:
    """Writes the model of a network whose cell is not a user's.

    The inputs are `images`, or `sequences` and `lengths`, as in `Source`, for any
    number of examples and time steps. The outputs are `logits` and `probabilities`,
    float32 [examples, classes]. The classes and the origin are metadata.
    """
    graph = Graph()
    task = source.network.task
    if task.image_shape:
        inputs = [_value("images", TensorProto.UINT8, *task.image_shape)]
        values = _add_images(graph, source)
        values = _add_differences(graph, source, values)
    else:
        inputs = [
            _value("sequences", TensorProto.FLOAT, "time", task.features),
            _value("lengths", TensorProto.INT32),
        ]
        values = _add_sequences(graph, source)
    config = source.network.config.model
    if config.window_size > 1:
        values = _add_windows(graph, values, config.window_size, config.window_stride)
    lengths = _add_lengths(graph, source)
    logits = [
        _add_network(graph, source, params, values, lengths)
        for params in source.members
    ]
    if len(logits) > 1:  # as `combine`
        logs = [graph.add("LogSoftmax", one, axis=-1) for one in logits]
        logs = [graph.add("Unsqueeze", one, [0]) for one in logs]
        joined = graph.add("Concat", *logs, axis=0)
        total = graph.add("ReduceLogSumExp", joined, axes=[0], keepdims=0)
        logits = [graph.add("Sub", total, np.log(len(logits)))]
    graph.add("Identity", *logits, name="logits")
    graph.add("Softmax", "logits", name="probabilities", axis=-1)
    outputs = [
        _value(name, TensorProto.FLOAT, len(task.classes))
        for name in ("logits", "probabilities")
    ]
    model = helper.make_model(
        helper.make_graph(graph.nodes, "rnnmnist", inputs, outputs, graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="rnnmnist",
    )
    onnx.checker.check_model(model, full_check=True)
    metadata = {key: json.dumps(value) for key, value in source.provenance.items()}
    helper.set_model_props(model, metadata)
    onnx.save(model, folder / "model.onnx")


def _value(name: str, dtype: int, *shape: int | str) -> onnx.ValueInfoProto:
    """Describes an input or output whose first axis is that of examples."""
    return helper.make_tensor_value_info(name, dtype, ["examples", *shape])


def _add_network(
    graph: Graph, source: Source, params: Params, values: str, lengths: str
) -> str:
    """Adds a network for [time, examples, features]; returns its logits."""
    config = source.network.config.model
    add, name = (_add_layers, "layers") if config.is_linear else (_add_cell, "cell")
    hidden = add(graph, source, params[name], values)
    last = _add_pooling(graph, source, hidden, lengths)
    if config.bidirectional:
        flipped = _reverse(graph, values, lengths)
        hidden = add(graph, source, params[BACKWARD + name], flipped)
        both = last, _add_pooling(graph, source, hidden, lengths)
        last = graph.add("Concat", *both, axis=1)
    # NaN if an input is NaN or infinite, which the recurrent operators hide.
    zero = graph.add("ReduceSum", graph.add("Mul", values, 0.0), [0, 2], keepdims=0)
    last = graph.add("Add", last, graph.add("Unsqueeze", zero, [1]))
    head = params["head"]
    return graph.add("Gemm", last, head["kernel"], head["bias"])


def _add_images(graph: Graph, source: Source) -> str:
    """Converts `images` to inputs of the recurrence, [time, examples, features]."""
    levels = graph.add("Cast", "images", to=TensorProto.FLOAT)
    pixels = graph.add("Flatten", graph.add("Div", levels, 255.0))
    pixels = graph.add("Gather", pixels, source.pixel_order, axis=1)
    return graph.add("Transpose", pixels, perm=[1, 0, 2])


def _add_sequences(graph: Graph, source: Source) -> str:
    """Converts `sequences` to inputs of the network, as `Normalization` does."""
    mean, std, missing = source.network.normalization
    values = graph.add("Cast", "sequences", to=TensorProto.DOUBLE)
    values = graph.add("Sub", values, graph.constant(mean, np.float64))
    values = graph.add("Div", values, graph.constant(std, np.float64))
    values = graph.add("Cast", values, to=TensorProto.FLOAT)
    values = graph.add("Transpose", values, perm=[1, 0, 2])
    if missing == "forward_fill":
        step = "is_missing = IsNaN(value) after = Where(is_missing, before, value)"
        values = graph.scan(step, value=values)
    if missing == "zero":
        is_missing = graph.add("IsNaN", values)
        values = graph.add("Where", is_missing, 0.0, values)
    values = _add_differences(graph, source, values)
    time = graph.add("Squeeze", graph.add("Shape", values, end=1))
    times = graph.add("Unsqueeze", graph.add("Range", 0, time, 1), [1])
    lengths = graph.add("Cast", "lengths", to=TensorProto.INT64)
    is_used = graph.add("Unsqueeze", graph.add("Less", times, lengths), [2])
    return graph.add("Where", is_used, values, 0.0)


def _add_differences(graph: Graph, source: Source, inputs: str) -> str:
    """Adds `add_differences` of [time, examples, features] if the model reads them."""
    std = source.members[0].get("difference_std")  # of all
    if std is None:
        return inputs
    first = graph.add("Slice", inputs, [0], [1])
    before = graph.add("Concat", first, graph.add("Slice", inputs, [0], [-1]), axis=0)
    differences = graph.add("Div", graph.add("Sub", inputs, before), std)
    return graph.add("Concat", inputs, differences, axis=2)


def _add_windows(graph: Graph, inputs: str, size: int, stride: int) -> str:
    """Adds `Windows` of [time, examples, features]: [windows, examples, features]."""
    time = graph.add("Squeeze", graph.add("Shape", inputs, end=1))
    starts = graph.add("Unsqueeze", graph.add("Range", 0, time, stride), [1])
    padded = graph.add("Pad", inputs, [size - stride, 0, 0, stride - 1, 0, 0])
    indices = graph.add("Add", starts, np.arange(size))
    windows = graph.add("Gather", padded, indices, axis=0)
    windows = graph.add("Transpose", windows, perm=[0, 2, 1, 3])
    return graph.add("Reshape", windows, [0, 0, -1])


def _add_cell(graph: Graph, source: Source, params: Params, inputs: str) -> str:
    """Adds a recurrent operator for [time, examples, features]; returns its states."""
    config = source.network.config.model
    units = config.hidden_size
    kernels = []
    biases = []
    for side in "ih":  # inputs, hidden state
        layers = [params[f"{side}{gate}"] for gate in GATES[config.cell]]
        kernels.append(np.concatenate([layer["kernel"].T for layer in layers]))
        biases += [layer.get("bias", np.zeros(units)) for layer in layers]
    # The first axis is that of directions.
    arrays = [array[None] for array in (*kernels, np.concatenate(biases))]
    # Flax's GRU multiplies by the reset gate after the matrix product.
    reset: dict[str, Any] = {"linear_before_reset": 1} if config.cell == "gru" else {}
    operator = config.cell.upper()
    states = graph.add(operator, inputs, *arrays, hidden_size=units, **reset)
    return graph.add("Squeeze", states, [1])


def _add_layers(graph: Graph, source: Source, params: Params, inputs: str) -> str:
    """Adds `ResidualLayers` for [time, examples, features]; returns their outputs."""
    config = source.network.config.model
    hidden = _add_dense(graph, params["encoder"], inputs)
    for index in range(config.layers):
        layer = params[f"layer_{index}"]
        norm = layer["norm"]
        normalized = graph.add(
            "LayerNormalization", hidden, norm["scale"], norm["bias"], epsilon=1e-6
        )
        add_recurrence = _add_lru if config.cell == "lru" else _add_mingru
        outputs = add_recurrence(graph, layer["recurrence"], normalized)
        outputs = _add_dense(graph, layer["glu"], _add_gelu(graph, outputs))
        value, gate = graph.split(outputs)
        outputs = graph.add("Mul", value, graph.add("Sigmoid", gate))
        hidden = graph.add("Add", hidden, outputs)
    return hidden


def _add_gelu(graph: Graph, x: str) -> str:
    """Adds x sigmoid(a x + b x^3), Flax's GELU; ONNX has one since opset 20 only."""
    a = np.sqrt(8 / np.pi)
    square = graph.add("Mul", x, x)
    slope = graph.add("Add", graph.add("Mul", square, 0.044715 * a), a)
    gate = graph.add("Sigmoid", graph.add("Mul", x, slope))
    return graph.add("Mul", x, gate)


def _add_mingru(graph: Graph, params: Params, inputs: str) -> str:
    """Adds a `MinGRU`; returns its states, [time, examples, features]."""
    gate, candidate = graph.split(_add_dense(graph, params["input"], inputs))
    update = graph.add("Sigmoid", gate)
    return graph.scan(
        "kept = Mul(decay, before) after = Add(kept, value)",
        decay=graph.add("Sub", 1.0, update),
        value=graph.add("Mul", update, candidate),
    )


def _add_lru(graph: Graph, params: Params, inputs: str) -> str:
    """Adds an `LRU`; returns its outputs, [time, examples, features].

    The real and the imaginary parts of a state are side by side, and both are
    multiplied by `real`; `swapped` by `imaginary` is what each adds to the other.
    """
    decay = np.exp(-np.exp(params["nu_log"]) + 1j * np.exp(params["theta_log"]))
    real = graph.constant(np.tile(decay.real, 2))
    imaginary = graph.constant(np.concatenate([-decay.imag, decay.imag]))
    order = graph.constant(np.roll(np.arange(2 * len(decay)), len(decay)))
    driven = _add_dense(graph, params["input"], inputs)
    gamma = graph.constant(np.tile(np.exp(params["gamma_log"]), 2))
    states = graph.scan(
        f"kept = Mul({real}, before) swapped = Gather<axis=1>(before, {order}) "
        f"turned = Mul({imaginary}, swapped) sum = Add(kept, turned) "
        "after = Add(sum, value)",
        value=graph.add("Mul", driven, gamma),
    )
    outputs = _add_dense(graph, params["output"], states)
    return graph.add("Add", outputs, graph.add("Mul", inputs, params["skip"]))


def _add_dense(graph: Graph, params: Params, inputs: str) -> str:
    """Adds a `Dense` of `rnnmnist.models.linear` over the last axis."""
    outputs = graph.add("MatMul", inputs, params["kernel"].T)
    return graph.add("Add", outputs, params["bias"]) if "bias" in params else outputs


def _add_lengths(graph: Graph, source: Source) -> str:
    """Adds the number of time steps, or of windows, of each example, int64."""
    task = source.network.task
    stride = source.network.config.model.window_stride
    if task.image_shape:
        count = graph.add("Shape", "images", end=1)
        return graph.add("Expand", [-(-task.time_steps // stride)], count)
    lengths = graph.add("Cast", "lengths", to=TensorProto.INT64)
    return graph.add("Div", graph.add("Add", lengths, stride - 1), stride)


def _reverse(graph: Graph, sequences: str, lengths: str) -> str:
    """Reverses the time steps before the padding of [time, examples, features]."""
    axes: dict[str, Any] = {"time_axis": 0, "batch_axis": 1}
    return graph.add("ReverseSequence", sequences, lengths, **axes)


def _add_pooling(graph: Graph, source: Source, hidden: str, lengths: str) -> str:
    """Returns what the head reads of [time, examples, hidden]: [examples, hidden]."""
    is_mean = source.network.config.model.pooling == "mean"
    if is_mean:
        hidden = graph.add("CumSum", hidden, 0)
    last = graph.add("Gather", _reverse(graph, hidden, lengths), 0, axis=0)
    if not is_mean:
        return last
    count = graph.add("Cast", lengths, to=TensorProto.FLOAT)
    return graph.add("Div", last, graph.add("Unsqueeze", count, [1]))
