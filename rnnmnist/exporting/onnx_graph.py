"""The ONNX model: from raw examples to probabilities.

References:
    ONNX operators, https://onnx.ai/onnx/operators/, such as `LSTM`, `GRU` and `Scan`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx.parser
from onnx import TensorProto, helper, numpy_helper

from rnnmnist.exporting.source import Source
from rnnmnist.models.classifier import Params

# Of 2022, so that older runtimes accept the model.
OPSET = 17
IR_VERSION = 8


# The operator of a Flax cell, its gates in ONNX's order by their names in Flax, and
# attributes.
OPERATORS: dict[str, tuple[str, Sequence[str], dict[str, Any]]] = {
    "lstm": ("LSTM", "iofg", {}),
    "gru": ("GRU", "zrn", {"linear_before_reset": 1}),
    "rnn": ("RNN", [""], {}),
}


class Graph:
    """Nodes and constants, in the order in which they are added."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """Adds a constant and returns its name."""
        name = f"constant_{len(self.constants)}"
        array = np.asarray(value, dtype)
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def add(
        self, operator: str, *inputs: str, name: str = "", **attributes: Any
    ) -> str:
        """Adds a node with one output and returns its name."""
        name = name or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
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


def build(source: Source) -> onnx.ModelProto:
    """Builds the model of a network, unless its cell is a user's.

    The inputs are `images`, or `sequences` and `lengths`, as in `Source`, for any
    number of examples and time steps. The outputs are `logits` and `probabilities`,
    float32 [examples, classes].
    """
    graph = Graph()
    task = source.task
    order = source.pixel_order
    if order is None:
        inputs = [
            _value("sequences", TensorProto.FLOAT, "time", task.features),
            _value("lengths", TensorProto.INT32),
        ]
        values = _add_sequences(graph, source)
    else:
        inputs = [_value("images", TensorProto.UINT8, *(task.image_shape or ()))]
        values = _add_images(graph, order)
    if source.network.config.model.is_linear:
        hidden = _add_layers(graph, source, values)
    else:
        hidden = _add_cell(graph, source, values)
    outputs = _add_pooling(graph, source, hidden)
    head = source.params["head"]
    kernel, bias = graph.constant(head["kernel"]), graph.constant(head["bias"])
    logits = graph.add("Gemm", outputs, kernel, bias, name="logits")
    graph.add("Softmax", logits, name="probabilities", axis=-1)
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "rnnmnist",
            inputs,
            [
                _value(name, TensorProto.FLOAT, len(task.classes))
                for name in ("logits", "probabilities")
            ],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="rnnmnist",
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _value(name: str, dtype: int, *shape: int | str) -> onnx.ValueInfoProto:
    """Describes an input or output whose first axis is that of examples."""
    return helper.make_tensor_value_info(name, dtype, ["examples", *shape])


def _add_images(graph: Graph, order: np.ndarray) -> str:
    """Converts `images` to inputs of the recurrence, [time, examples, features]."""
    levels = graph.add("Cast", "images", to=TensorProto.FLOAT)
    levels = graph.add("Div", levels, graph.constant(255))
    pixels = graph.add("Flatten", levels)
    pixels = graph.add("Gather", pixels, graph.constant(order, np.int64), axis=1)
    return graph.add("Transpose", pixels, perm=[1, 0, 2])


def _add_sequences(graph: Graph, source: Source) -> str:
    """Converts `sequences` to the inputs of the recurrence, as `Normalization` does."""
    mean, std, missing = source.network.normalization
    values = graph.add("Cast", "sequences", to=TensorProto.DOUBLE)
    values = graph.add("Sub", values, graph.constant(mean, np.float64))
    values = graph.add("Div", values, graph.constant(std, np.float64))
    values = graph.add("Cast", values, to=TensorProto.FLOAT)
    values = graph.add("Transpose", values, perm=[1, 0, 2])
    if missing == "forward_fill":
        step = "is_missing = IsNaN(value) after = Where(is_missing, before, value)"
        return graph.scan(step, value=values)
    if missing == "zero":
        is_missing = graph.add("IsNaN", values)
        return graph.add("Where", is_missing, graph.constant(0), values)
    return values


def _add_cell(graph: Graph, source: Source, inputs: str) -> str:
    """Adds a recurrent operator for [time, examples, features]; returns its states."""
    config = source.network.config.model
    operator, gates, attributes = OPERATORS[config.cell]
    units = config.hidden_size
    kernels = []
    biases = []
    for side in "ih":  # of the inputs, of the hidden state
        layers = [source.params["cell"][f"{side}{gate}"] for gate in gates]
        kernels.append(np.concatenate([layer["kernel"].T for layer in layers]))
        biases += [layer.get("bias", np.zeros(units)) for layer in layers]
    arrays = [*kernels, np.concatenate(biases)]
    parameters = [graph.constant(array[None]) for array in arrays]  # of one direction
    states = graph.add(operator, inputs, *parameters, hidden_size=units, **attributes)
    return graph.add("Squeeze", states, graph.constant([1], np.int64))


def _add_layers(graph: Graph, source: Source, inputs: str) -> str:
    """Adds `ResidualLayers` for [time, examples, features]; returns their outputs."""
    config = source.network.config.model
    params = source.params["layers"]
    hidden = _add_dense(graph, params["encoder"], inputs)
    for index in range(config.num_layers):
        layer = params[f"layer_{index}"]
        norm = [graph.constant(layer["norm"][name]) for name in ("scale", "bias")]
        normalized = graph.add("LayerNormalization", hidden, *norm, epsilon=1e-6)
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
    slope = graph.add("Mul", square, graph.constant(0.044715 * a))
    slope = graph.add("Add", slope, graph.constant(a))
    gate = graph.add("Sigmoid", graph.add("Mul", x, slope))
    return graph.add("Mul", x, gate)


def _add_mingru(graph: Graph, params: Params, inputs: str) -> str:
    """Adds a `MinGRU`; returns its states, [time, examples, features]."""
    gate, candidate = graph.split(_add_dense(graph, params["input"], inputs))
    update = graph.add("Sigmoid", gate)
    return graph.scan(
        "kept = Mul(decay, before) after = Add(kept, value)",
        decay=graph.add("Sub", graph.constant(1), update),
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
    order = graph.constant(np.roll(np.arange(2 * len(decay)), len(decay)), np.int64)
    driven = _add_dense(graph, params["input"], inputs)
    gamma = graph.constant(np.tile(np.exp(params["gamma_log"]), 2))
    states = graph.scan(
        f"kept = Mul({real}, before) swapped = Gather<axis=1>(before, {order}) "
        f"turned = Mul({imaginary}, swapped) sum = Add(kept, turned) "
        "after = Add(sum, value)",
        value=graph.add("Mul", driven, gamma),
    )
    outputs = _add_dense(graph, params["output"], states)
    skipped = graph.add("Mul", inputs, graph.constant(params["skip"]))
    return graph.add("Add", outputs, skipped)


def _add_dense(graph: Graph, params: Params, inputs: str) -> str:
    """Adds a `Dense` of `rnnmnist.models.linear` over the last axis."""
    outputs = graph.add("MatMul", inputs, graph.constant(params["kernel"].T))
    if "bias" not in params:
        return outputs
    return graph.add("Add", outputs, graph.constant(params["bias"]))


def _add_pooling(graph: Graph, source: Source, hidden: str) -> str:
    """Returns what the head reads of [time, examples, hidden]: [examples, hidden]."""
    is_mean = source.network.config.model.pooling == "mean"
    if source.task.image_shape:
        if is_mean:
            return graph.add("ReduceMean", hidden, axes=[0], keepdims=0)
        return graph.add("Gather", hidden, graph.constant(-1, np.int64), axis=0)
    if is_mean:
        hidden = graph.add("CumSum", hidden, graph.constant(0, np.int64))
    lengths = graph.add("Cast", "lengths", to=TensorProto.INT64)
    # Reverses the time steps before the padding, so that the last one is the first.
    hidden = graph.add("ReverseSequence", hidden, lengths, time_axis=0, batch_axis=1)
    last = graph.add("Gather", hidden, graph.constant(0, np.int64), axis=0)
    if not is_mean:
        return last
    count = graph.add("Cast", lengths, to=TensorProto.FLOAT)
    count = graph.add("Unsqueeze", count, graph.constant([1], np.int64))
    return graph.add("Div", last, count)
