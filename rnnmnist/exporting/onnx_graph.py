"""A graph of ONNX nodes, for whole sequences or for one time step of streams."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx.parser
from numpy.typing import ArrayLike, DTypeLike
from onnx import helper, numpy_helper


class Graph:
    """Nodes and constants, in the order in which they are added.

    `graph.Mul(x, 2.0)` adds a node with the operator `Mul`, as `add` does.

    Inputs and states are computed as by the recurrences of `rnnmnist.models`, which
    read a block of time steps, from the state before it to the state after it. Whole
    sequences start from a state of 0. A graph that streams reads a block of one time
    step. All parts of its state are side by side in the input `state` and in the output
    `next_state`, float32 [examples, state_size]. Before the first time step, they are
    0.
    """

    def __init__(self, examples: str, *, streams: bool) -> None:
        """Creates a graph with an input whose first axis is that of examples."""
        self.streams = streams
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.state_size = 0
        self._state: dict[str, str] = {}  # the parts before and after the block
        # Bool [examples, 1]. What is written keeps its state where it is false.
        self.is_advanced: str | None = None
        self.count = self.Shape(examples, end=1)  # of examples, [1]

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
        self, operator: str, *inputs: ArrayLike, name: str = "", **attributes: Any
    ) -> str:
        """Adds a node with one output and returns its name.

        Inputs are names, or values that become constants.
        """
        name = name or f"{operator.lower()}_{len(self.nodes)}"
        names = [x if isinstance(x, str) else self.constant(x) for x in inputs]
        self.nodes.append(helper.make_node(operator, names, [name], **attributes))
        return name

    def add_outputs(
        self, operator: str, *inputs: ArrayLike, outputs: int, **attributes: Any
    ) -> list[str]:
        """Adds a node with several outputs and returns their names."""
        first = self.add(operator, *inputs, **attributes)
        others = [f"{first}_{index}" for index in range(1, outputs)]
        self.nodes[-1].output.extend(others)
        return [first, *others]

    def read_state(self, size: int) -> str:
        """Returns a part of the state before the block, [examples, size]."""
        if not self.streams:
            return self.ConstantOfShape(self.Concat(self.count, [size], axis=0))
        start = self.state_size
        self.state_size += size
        before = self.Slice("state", [start], [self.state_size], [1])
        self._state[before] = before
        return before

    def write_state(self, before: str, after: str) -> None:
        """Sets a part of the state after the block, for that which was `before`."""
        if self.is_advanced is not None:
            after = self.Where(self.is_advanced, after, before)
        self._state[before] = after

    def finish_state(self) -> None:
        """Adds the output `next_state`."""
        self.Concat(*self._state.values(), name="next_state", axis=1)

    def scan(self, step: str, value: str, before: str) -> str:
        """Adds a loop over the time steps of a block, and returns all states.

        `step` has nodes in ONNX's text format. They compute the state `after` a time
        step from the one `before` it and from the `value` of the time step. Values and
        states are [time, examples, size]. `before` is a part of the state.
        """
        body = onnx.parser.parse_graph(
            "step (float[n, size] before, float[n, size] value) "
            "=> (float[n, size] after, float[n, size] copy) "
            f"{{ {step} copy = Identity(after) }}"
        )
        last, states = self.add_outputs(
            "Scan", before, value, outputs=2, body=body, num_scan_inputs=1
        )
        self.write_state(before, last)
        return states
