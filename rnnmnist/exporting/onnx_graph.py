"""The ONNX model: one recurrent operator, from raw examples to probabilities.

References:
    ONNX operators `LSTM`, `GRU` and `RNN`, https://onnx.ai/onnx/operators/.
"""

from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rnnmnist.exporting.source import Source

# Of 2022, so that older runtimes accept the model.
OPSET = 17
IR_VERSION = 8


class Operator(NamedTuple):
    """The ONNX operator of a Flax cell."""

    name: str
    # Flax's names of the dense layers of each gate, of the inputs and of the hidden
    # state, in ONNX's order of gates.
    gates: tuple[tuple[str, str], ...]
    attributes: dict[str, Any]


OPERATORS = {
    "lstm": Operator(
        "LSTM", (("ii", "hi"), ("io", "ho"), ("if", "hf"), ("ig", "hg")), {}
    ),
    "gru": Operator(
        "GRU", (("iz", "hz"), ("ir", "hr"), ("in", "hn")), {"linear_before_reset": 1}
    ),
    "rnn": Operator("RNN", (("i", "h"),), {}),
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


def build(source: Source) -> onnx.ModelProto:
    """Builds the model of a network with a cell of `OPERATORS`.

    The inputs are `images`, or `sequences` and `lengths`, as `Source.inputs` returns
    them, for any number of examples. The outputs are `logits` and `probabilities`,
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
        read = _add_sequences(graph, source)
        lengths = "lengths"
    else:
        inputs = [_value("images", TensorProto.UINT8, *(task.image_shape or ()))]
        read = _add_images(graph, order)
        lengths = ""
    hidden = _add_recurrence(graph, source, read, lengths)
    head = source.params["head"]
    kernel, bias = graph.constant(head["kernel"]), graph.constant(head["bias"])
    logits = graph.add("Gemm", hidden, kernel, bias, name="logits")
    graph.add("Softmax", logits, name="probabilities", axis=-1)
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
    mean, std, missing = source.normalization
    values = graph.add("Cast", "sequences", to=TensorProto.DOUBLE)
    values = graph.add("Sub", values, graph.constant(mean, np.float64))
    values = graph.add("Div", values, graph.constant(std, np.float64))
    values = graph.add("Cast", values, to=TensorProto.FLOAT)
    values = graph.add("Transpose", values, perm=[1, 0, 2])
    if missing == "forward_fill":
        values = _add_forward_fill(graph, values)
    if missing != "error":
        is_missing = graph.add("IsNaN", values)
        values = graph.add("Where", is_missing, graph.constant(0), values)
    return values


def _add_forward_fill(graph: Graph, values: str) -> str:
    """Replaces missing values of [time, examples, features] by those before them."""
    before, value, after, filled = (
        _value(name, TensorProto.FLOAT, "features")
        for name in ("before", "value", "after", "filled")
    )
    body = [
        helper.make_node("IsNaN", ["value"], ["is_missing"]),
        helper.make_node("Where", ["is_missing", "before", "value"], ["after"]),
        helper.make_node("Identity", ["after"], ["filled"]),
    ]
    step = helper.make_graph(body, "step", [before, value], [after, filled])
    start = graph.add("Gather", values, graph.constant(0, np.int64), axis=0)
    output = f"filled_{len(graph.nodes)}"
    graph.nodes.append(
        helper.make_node(
            "Scan", [start, values], ["last", output], body=step, num_scan_inputs=1
        )
    )
    return output


def _add_recurrence(graph: Graph, source: Source, inputs: str, lengths: str) -> str:
    """Adds the recurrent operator; returns what the head reads, [examples, hidden].

    The inputs are [time, examples, features], and the lengths int32 [examples]; their
    name is empty if no sequence has padding.
    """
    config = source.restored.config.model
    operator = OPERATORS[config.cell]
    units = config.hidden_size
    kernels = []
    biases = []
    for side in zip(*operator.gates, strict=True):  # of the inputs, of the hidden state
        layers = [source.params["cell"][name] for name in side]
        kernels.append(np.concatenate([layer["kernel"].T for layer in layers]))
        biases += [layer.get("bias", np.zeros(units)) for layer in layers]
    arrays = [*kernels, np.concatenate(biases)]
    parameters = [graph.constant(array[None]) for array in arrays]  # of one direction
    every = "hidden_states"
    last = "last_hidden_state"
    graph.nodes.append(
        helper.make_node(
            operator.name,
            [inputs, *parameters, lengths],
            [every, last],
            hidden_size=units,
            **operator.attributes,
        )
    )
    if config.pooling == "last":
        return graph.add("Squeeze", last, graph.constant([0], np.int64))
    # The operator returns zeros in the padding.
    total = graph.add("ReduceSum", every, graph.constant([0, 1], np.int64), keepdims=0)
    if not lengths:
        return graph.add("Div", total, graph.constant(source.task.time_steps))
    count = graph.add("Cast", lengths, to=TensorProto.FLOAT)
    count = graph.add("Unsqueeze", count, graph.constant([1], np.int64))
    return graph.add("Div", total, count)
