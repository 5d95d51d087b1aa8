"""Adds recurrent layers and random filters to ONNX graphs.

References:
    ONNX operators `LSTM`, `GRU`, `RNN` and `Scan`, https://onnx.ai/onnx/operators/.
"""

from typing import Any

import numpy as np
from onnx import TensorProto

from rnnmnist.config.resolving import RunModelConfig
from rnnmnist.exporting.onnx_graph import Graph
from rnnmnist.models.filters import ORDER
from rnnmnist.models.parameters import Params

# Flax's gate names in ONNX's order, for each cell that has an ONNX operator.
GATES = {"lstm": ("i", "o", "f", "g"), "gru": ("z", "r", "n"), "rnn": ("",)}


def add_cell(graph: Graph, config: RunModelConfig, params: Params, inputs: str) -> str:
    """Adds the ONNX operator of a cell, and returns its hidden states.

    `inputs` has shape [time, examples, features].
    """
    cell, hidden_size = str(config.cell), config.hidden_size
    kernels = []
    biases = []
    for prefix in "ih":  # Flax's prefixes for the inputs and the hidden state
        gates = [params[f"{prefix}{gate}"] for gate in GATES[cell]]
        kernels.append(np.concatenate([gate["kernel"].T for gate in gates]))
        biases += [gate.get("bias", np.zeros(hidden_size)) for gate in gates]
    attributes: dict[str, Any] = {"hidden_size": hidden_size}
    if cell == "gru":
        # Flax's GRU applies the reset gate after the matrix product.
        attributes["linear_before_reset"] = 1
    # The first axis of ONNX parameters is the direction.
    arrays = [array[None] for array in (*kernels, np.concatenate(biases))]
    hidden = graph.add(cell.upper(), inputs, *arrays, **attributes)
    return graph.Squeeze(hidden, [1])


def add_layers(
    graph: Graph, config: RunModelConfig, params: Params, inputs: str
) -> str:
    """Adds `ResidualLayers`, and returns the outputs of the last layer.

    `inputs` has shape [time, examples, features].
    """
    hidden = _add_dense(graph, params["encoder"], inputs)
    hidden_size = config.hidden_size
    for index in range(config.num_layers):
        layer = params[f"layer_{index}"]
        scale, bias = layer["norm"]["scale"], layer["norm"]["bias"]
        outputs = graph.LayerNormalization(hidden, scale, bias, epsilon=1e-6)
        outputs = _add_lru(graph, layer["recurrence"], outputs)
        outputs = graph.Gelu(outputs, approximate="tanh")
        outputs = _add_dense(graph, layer["glu"], outputs)
        value = graph.Slice(outputs, [0], [hidden_size], [2])
        gate = graph.Slice(outputs, [hidden_size], [2 * hidden_size], [2])
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
    body = (
        "step (float[n, parts] before, float[n, parts] value) "
        "=> (float[n, parts] after, float[n, parts] copy) { "
        f"{_multiply_state(graph, decay)} "
        "after = Add(kept, value) "
        "copy = Identity(after) }"
    )
    _, states = graph.scan(body, projected, state_shapes=[[2 * len(decay)]])
    outputs = _add_dense(graph, params["output"], states)
    return graph.Add(outputs, graph.Mul(inputs, params["skip"]))


def _multiply_state(graph: Graph, factors: np.ndarray) -> str:
    """Returns nodes, in ONNX text, that multiply a state by complex factors.

    The nodes compute `kept` from `before`. The last axis of both arrays contains the
    real parts, followed by the imaginary parts.
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

    The body of the loop updates the states of the recurrences, the maximum outputs and
    the number of outputs above each threshold. The input of each recurrence is the new
    state of the previous recurrence, so the new states are cumulative sums over the
    cascade. Outputs at padded time steps are -inf.
    """
    weights, thresholds = params["weights"], params["thresholds"]
    pole_real, pole_imaginary = params["pole"]
    phase_real, phase_imaginary = params["phase"]
    phase = np.concatenate([phase_real, -phase_imaginary])
    num_thresholds, num_filters = thresholds.shape
    body = (
        "step (float[n, order, parts] before, float[n, filters] before_largest, "
        "float[n, thresholds, filters] before_counts, float[n, features] value, "
        "bool[n, one] is_valid) => (float[n, order, parts] after, "
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
        "sum = Add(output_real, output_imaginary) "
        f"output = Where(is_valid, sum, {graph.constant(-np.inf)}) "
        "largest = Max(before_largest, output) "
        "column = Unsqueeze(output, axis) "
        f"is_above = Greater(column, {graph.constant(thresholds)}) "
        "counted = Cast<to = 1>(is_above) "
        "counts = Add(before_counts, counted) }"
    )
    _, max_outputs, counts = graph.scan(
        body,
        inputs,
        add_validity_mask(graph, inputs, lengths),
        state_shapes=[
            [ORDER, 2 * num_filters],
            [num_filters],
            [num_thresholds, num_filters],
        ],
    )
    ppv = divide_by_lengths(graph, graph.Flatten(counts), lengths)
    return graph.Concat(ppv, max_outputs, axis=1)


def add_validity_mask(graph: Graph, inputs: str, lengths: str) -> str:
    """Adds a mask, [time, examples, 1], that is True except in the padding.

    `inputs` has shape [time, examples, features].
    """
    times = graph.Range(0, graph.Squeeze(graph.Shape(inputs, end=1)), 1)
    return graph.Less(graph.Unsqueeze(times, [1, 2]), graph.Unsqueeze(lengths, [1]))


def divide_by_lengths(graph: Graph, totals: str, lengths: str) -> str:
    """Divides sums over time steps, [examples, size], by the sequence lengths."""
    counts = graph.Cast(lengths, to=TensorProto.FLOAT)
    return graph.Div(totals, graph.Unsqueeze(counts, [1]))
