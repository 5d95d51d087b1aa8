"""Adds the recurrent layers to ONNX graphs.

References:
    ONNX operators, https://onnx.ai/onnx/operators/, such as `LSTM`, `GRU` and `Scan`.
"""

import math

import numpy as np
import onnx.parser

from rnnmnist.config.resolving import RunModelConfig
from rnnmnist.exporting.onnx_graph import Graph
from rnnmnist.models.filters import ORDER
from rnnmnist.models.parameters import Params

# Flax's names of the gates, in ONNX's order, for each cell with an ONNX operator.
GATES = {"lstm": ("i", "o", "f", "g"), "gru": ("z", "r", "n"), "rnn": ("",)}


def add_cell(graph: Graph, config: RunModelConfig, params: Params, inputs: str) -> str:
    """Adds the ONNX operator of a cell, and returns its hidden states.

    `inputs` has shape [time, examples, features].
    """
    cell, units = str(config.cell), config.hidden_size
    kernels = []
    biases = []
    for prefix in "ih":  # Flax's prefixes for the inputs and the hidden state
        gates = [params[f"{prefix}{gate}"] for gate in GATES[cell]]
        kernels.append(np.concatenate([gate["kernel"].T for gate in gates]))
        biases += [gate.get("bias", np.zeros(units)) for gate in gates]
    num_states = 2 if cell == "lstm" else 1  # an LSTM also has a cell state
    old_states = [graph.read_state(units) for _ in range(num_states)]
    attributes = {"hidden_size": units}
    if cell == "gru":
        # Flax's GRU applies the reset gate after the matrix product.
        attributes["linear_before_reset"] = 1
    # The first axis of parameters and states is the direction.
    arrays = [array[None] for array in (*kernels, np.concatenate(biases))]
    hidden, *new_states = graph.add_outputs(
        cell.upper(),
        inputs,
        *arrays,
        "",  # all sequences in a batch have the same number of time steps
        *[graph.Unsqueeze(state, [0]) for state in old_states],
        outputs=1 + num_states,
        **attributes,
    )
    for state, new_state in zip(old_states, new_states, strict=True):
        graph.write_state(state, graph.Squeeze(new_state, [0]))
    return graph.Squeeze(hidden, [1])


def add_layers(
    graph: Graph, config: RunModelConfig, params: Params, inputs: str
) -> str:
    """Adds `ResidualLayers`, and returns their outputs.

    `inputs` has shape [time, examples, features].
    """
    hidden = _add_dense(graph, params["encoder"], inputs)
    for index in range(config.num_layers):
        layer = params[f"layer_{index}"]
        scale, bias = layer["norm"]["scale"], layer["norm"]["bias"]
        outputs = graph.LayerNormalization(hidden, scale, bias, epsilon=1e-6)
        outputs = _add_lru(graph, layer["recurrence"], outputs)
        outputs = graph.Gelu(outputs, approximate="tanh")
        outputs = _add_dense(graph, layer["glu"], outputs)
        value, gate = graph.add_outputs(
            "Split", outputs, outputs=2, axis=-1, num_outputs=2
        )
        hidden = graph.Add(hidden, graph.Mul(value, graph.Sigmoid(gate)))
    return hidden


def _add_dense(graph: Graph, params: Params, inputs: str) -> str:
    """Adds a `TransposedDense` (`rnnmnist.models.linear`) over the last axis."""
    outputs = graph.MatMul(inputs, params["kernel"].T)
    return graph.Add(outputs, params["bias"]) if "bias" in params else outputs


def _add_lru(graph: Graph, params: Params, inputs: str) -> str:
    decay = np.exp(-np.exp(params["nu_log"]) + 1j * np.exp(params["theta_log"]))
    scale = np.tile(np.exp(params["gamma_log"]), 2)
    projected = graph.Mul(_add_dense(graph, params["input"], inputs), scale)
    nodes = f"{_multiply_state(graph, decay)} after = Add(kept, value)"
    states = graph.scan(nodes, projected, graph.read_state(2 * len(decay)))
    outputs = _add_dense(graph, params["output"], states)
    return graph.Add(outputs, graph.Mul(inputs, params["skip"]))


def _multiply_state(graph: Graph, factors: np.ndarray) -> str:
    """Returns nodes, in the ONNX text format, that multiply a state by complex factors.

    The nodes compute `kept` from `before`. The last axis of both contains the real
    parts, followed by the imaginary parts.
    """
    real = graph.constant(np.tile(factors.real, 2))
    imaginary = graph.constant(np.concatenate([-factors.imag, factors.imag]))
    return (
        "before_real, before_imaginary = Split<axis=-1, num_outputs=2>(before) "
        "swapped = Concat<axis=-1>(before_imaginary, before_real) "
        f"scaled = Mul({real}, before) turned = Mul({imaginary}, swapped) "
        "kept = Add(scaled, turned)"
    )


def add_filters(graph: Graph, params: Params, inputs: str, lengths: str) -> str:
    """Adds a `FilterBank`, and returns its hidden state, [examples, hidden].

    `inputs` has shape [time, examples, features].
    """
    thresholds, filters = params["thresholds"].shape
    is_valid = graph.Less(add_times(graph, inputs), lengths)
    # The states of the recurrences (real parts, then imaginary parts), the maximum
    # outputs, and the number of outputs above each threshold.
    shapes = [(ORDER, 2 * filters), (filters,), (thresholds, filters)]
    old_states = [graph.read_state(math.prod(shape)) for shape in shapes]
    results = graph.add_outputs(
        "Scan",
        *map(graph.Reshape, old_states, [(0, *shape) for shape in shapes]),
        inputs,
        graph.Unsqueeze(is_valid, [2]),
        outputs=len(shapes),
        body=_make_filter_time_step(graph, params),
        num_scan_inputs=2,
    )
    new_states = [graph.Flatten(result) for result in results]
    for state, new_state in zip(old_states, new_states, strict=True):
        graph.write_state(state, new_state)
    _, max_outputs, counts = new_states
    ppv = graph.Div(counts, count_time_steps(graph, lengths))
    return graph.Concat(ppv, max_outputs, axis=1)


def _make_filter_time_step(graph: Graph, params: Params) -> onnx.GraphProto:
    """Returns a loop body that runs one time step of a `FilterBank`.

    The body updates the states, maximum outputs and counts. `is_read` is False in the
    padding. The input of each recurrence is the new state of the previous recurrence,
    so the new states are cumulative sums over the cascade.
    """
    weights, thresholds = params["weights"], params["thresholds"]
    pole_real, pole_imaginary = params["pole"]
    phase_real, phase_imaginary = params["phase"]
    phase = np.concatenate([phase_real, -phase_imaginary])
    return onnx.parser.parse_graph(
        "step (float[n, order, parts] before, float[n, filters] before_largest, "
        "float[n, thresholds, filters] before_counts, float[n, features] value, "
        "bool[n, one] is_read) => (float[n, order, parts] after, "
        "float[n, filters] largest, float[n, thresholds, filters] counts) { "
        f"{_multiply_state(graph, pole_real + 1j * pole_imaginary)} "
        "axis = Constant<value_ints = [1]>() "
        f"real = MatMul(value, {graph.constant(weights)}) "
        "imaginary = Sub(real, real) "
        "driven = Concat<axis=1>(real, imaginary) "
        "first = Unsqueeze(driven, axis) "
        "terms = Concat<axis=1>(first, kept) "
        "sums = CumSum(terms, axis) "
        f"after = Slice(sums, axis, {graph.constant([ORDER + 1])}, axis) "
        f"last = Gather<axis=1>(after, {graph.constant(ORDER - 1)}) "
        f"rotated = Mul({graph.constant(phase)}, last) "
        "output_real, output_imaginary = Split<axis=1, num_outputs=2>(rotated) "
        "output = Add(output_real, output_imaginary) "
        "larger = Max(before_largest, output) "
        "largest = Where(is_read, larger, before_largest) "
        "column = Unsqueeze(output, axis) "
        f"is_above = Greater(column, {graph.constant(thresholds)}) "
        "read_column = Unsqueeze(is_read, axis) "
        "is_counted = And(is_above, read_column) "
        "counted = Cast<to = 1>(is_counted) "
        "counts = Add(before_counts, counted) }"
    )


def add_times(graph: Graph, inputs: str, stride: int = 1) -> str:
    """Adds the indices of every `stride`th time step, [indices, 1].

    `inputs` has shape [time, ...].
    """
    time = graph.Squeeze(graph.Shape(inputs, end=1))
    return graph.Unsqueeze(graph.Range(0, time, stride), [1])


def count_time_steps(graph: Graph, lengths: str) -> str:
    """Adds the number of time steps read so far, float32 [examples, 1].

    `lengths`, [examples], contains the number of time steps of each sequence in the
    block.
    """
    count = graph.read_state(1)
    increment = graph.Unsqueeze(graph.Cast(lengths, to=onnx.TensorProto.FLOAT), [1])
    new_count = graph.Add(count, increment)
    graph.write_state(count, new_count)
    return new_count
