"""Builds ONNX graphs.

References:
    ONNX text, https://github.com/onnx/onnx/blob/main/docs/Syntax.md.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx.parser
from numpy.typing import ArrayLike, DTypeLike
from onnx import helper, numpy_helper


class Graph:
    """Builds an ONNX graph by adding nodes and constants in order.

    `graph.Mul(x, 2.0)` is short for `graph.add("Mul", x, 2.0)`.
    """

    def __init__(self, signature: str) -> None:
        """Creates a graph; `signature` is `(inputs) => (outputs)` in ONNX text."""
        self.proto = onnx.parser.parse_graph(f"rnnmnist {signature} {{ }}")

    def __getattr__(self, operator: str) -> Callable[..., str]:
        return functools.partial(self.add, operator)

    def constant(self, value: ArrayLike, float_dtype: DTypeLike = np.float32) -> str:
        """Adds a constant, and returns its name. Integers become int64."""
        array = np.asarray(value)
        dtype = np.int64 if array.dtype.kind == "i" else float_dtype
        name = f"constant_{len(self.proto.initializer)}"
        tensor = numpy_helper.from_array(array.astype(dtype), name)
        self.proto.initializer.append(tensor)
        return name

    def add(
        self, operator: str, *inputs: ArrayLike, name: str = "", **attributes: Any
    ) -> str:
        """Adds a node, and returns the name of its first output.

        An input is either the name of an earlier output, or a value, which is added as
        a constant.
        """
        name = name or f"{operator.lower()}_{len(self.proto.node)}"
        names = [x if isinstance(x, str) else self.constant(x) for x in inputs]
        self.proto.node.append(helper.make_node(operator, names, [name], **attributes))
        return name

    def scan(self, body: str, *inputs: str, state_shapes: list[list[int]]) -> list[str]:
        """Adds a loop over time steps, and returns the names of its outputs.

        Args:
            body: the graph of one time step, in ONNX text. It maps the states and the
                inputs of the time step to the new states and the outputs.
            inputs: names of the inputs, [time, examples, ...].
            state_shapes: the shape of each state, without the example axis. Initial
                states are 0.

        Returns:
            The final states, [examples, ...], and the outputs of all time steps, [time,
            examples, ...].
        """
        num_examples = self.Shape(inputs[0], start=1, end=2)
        states = [
            self.ConstantOfShape(self.Concat(num_examples, shape, axis=0))
            for shape in state_shapes
        ]
        time_step = onnx.parser.parse_graph(body)
        name = self.Scan(*states, *inputs, body=time_step, num_scan_inputs=len(inputs))
        names = [f"{name}_{output.name}" for output in time_step.output]
        self.proto.node[-1].output[:] = names
        return names
