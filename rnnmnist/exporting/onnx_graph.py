"""Builds ONNX graphs, for whole sequences or for streams."""

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

    Like the layers in `rnnmnist.models`, the graph reads a block of time steps and maps
    the state before the block to the state after it. For whole sequences, the state
    before the block is 0. In a streaming graph, the block is one time step. Its input
    `state` and output `next_state`, float32 [examples, state_size], concatenate the
    states of all layers. The caller passes a state of 0 for the first time step.
    """

    def __init__(self, examples: str, *, streaming: bool) -> None:
        """Creates a graph; `examples` is the name of an input, [examples, ...]."""
        self.streaming = streaming
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.state_size = 0
        # Maps each state before the block to the state after the block.
        self._new_states: dict[str, str] = {}
        # Bool [examples, 1]. Where it is False, `write_state` keeps the old state.
        self.update_mask: str | None = None
        self.num_examples = self.Shape(examples, end=1)  # [1]

    def __getattr__(self, operator: str) -> Callable[..., str]:
        return functools.partial(self.add, operator)

    def constant(self, value: ArrayLike, dtype: DTypeLike | None = None) -> str:
        """Adds a constant. By default, integers are int64 and other values float32."""
        array = np.asarray(value)
        if dtype is None:
            dtype = np.int64 if array.dtype.kind == "i" else np.float32
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array.astype(dtype), name))
        return name

    def add(
        self, operator: str, *inputs: ArrayLike, name: str = "", **attributes: Any
    ) -> str:
        """Adds a node with one output, and returns the name of the output.

        Inputs are names of outputs, or values, which are added as constants.
        """
        name = name or f"{operator.lower()}_{len(self.nodes)}"
        names = [x if isinstance(x, str) else self.constant(x) for x in inputs]
        self.nodes.append(helper.make_node(operator, names, [name], **attributes))
        return name

    def add_outputs(
        self, operator: str, *inputs: ArrayLike, outputs: int, **attributes: Any
    ) -> list[str]:
        """Adds a node with several outputs, and returns their names."""
        first = self.add(operator, *inputs, **attributes)
        more_names = [f"{first}_{index}" for index in range(1, outputs)]
        self.nodes[-1].output.extend(more_names)
        return [first, *more_names]

    def read_state(self, size: int) -> str:
        """Adds a state, and returns its value before the block, [examples, size]."""
        if not self.streaming:
            return self.ConstantOfShape(self.Concat(self.num_examples, [size], axis=0))
        start = self.state_size
        self.state_size += size
        state = self.Slice("state", [start], [self.state_size], [1])
        self._new_states[state] = state
        return state

    def write_state(self, state: str, new_state: str) -> None:
        """Sets the value after the block for a state from `read_state`."""
        if self.update_mask is not None:
            new_state = self.Where(self.update_mask, new_state, state)
        self._new_states[state] = new_state

    def finish_state(self) -> None:
        """Adds the output `next_state`."""
        self.Concat(*self._new_states.values(), name="next_state", axis=1)

    def scan(self, nodes: str, inputs: str, state: str) -> str:
        """Adds a loop over the time steps of a block.

        Args:
            nodes: the body of the loop in the ONNX text format. It computes `after`,
                the state after a time step, from `before`, the previous state, and
                `value`, the inputs of the time step.
            inputs: the inputs of all time steps, [time, examples, size].
            state: a state from `read_state`, [examples, size].

        Returns:
            The states after all time steps, [time, examples, size].
        """
        body = onnx.parser.parse_graph(
            "step (float[n, size] before, float[n, size] value) "
            "=> (float[n, size] after, float[n, size] copy) "
            f"{{ {nodes} copy = Identity(after) }}"
        )
        last_state, states = self.add_outputs(
            "Scan", state, inputs, outputs=2, body=body, num_scan_inputs=1
        )
        self.write_state(state, last_state)
        return states
