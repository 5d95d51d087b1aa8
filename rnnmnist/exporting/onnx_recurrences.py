"""The recurrences in ONNX: each reads a block of time steps from its part of the state.

References:
    ONNX operators, https://onnx.ai/onnx/operators/, such as `LSTM`, `GRU` and `Scan`.
"""

import numpy as np
import onnx.parser

from rnnmnist.config.resolving import RunModelConfig
from rnnmnist.exporting.onnx_graph import Graph
from rnnmnist.models.filters import ORDER
from rnnmnist.models.parameters import Params

# The gates of each cell that has an operator, in ONNX's order, with Flax's names.
GATES = {"lstm": ("i", "o", "f", "g"), "gru": ("z", "r", "n"), "rnn": ("",)}


def add_cell(graph: Graph, config: RunModelConfig, params: Params, inputs: str) -> str:
    """Adds a recurrent operator for [time, examples, features]; returns its states."""
    cell, units = str(config.cell), config.hidden_size
    kernels = []
    biases = []
    for side in "ih":  # Flax's names of the kernels for inputs and for the hidden state
        layers = [params[f"{side}{gate}"] for gate in GATES[cell]]
        kernels.append(np.concatenate([layer["kernel"].T for layer in layers]))
        biases += [layer.get("bias", np.zeros(units)) for layer in layers]
    # The hidden state, and of an LSTM the cell state.
    count = 2 if cell == "lstm" else 1
    before = [graph.read_state(units) for _ in range(count)]
    attributes = {"hidden_size": units}
    if cell == "gru":
        # Flax's GRU multiplies by the reset gate after the matrix product.
        attributes["linear_before_reset"] = 1
    # The first axis of parameters and states is that of directions.
    arrays = [array[None] for array in (*kernels, np.concatenate(biases))]
    states, *after = graph.add_outputs(
        cell.upper(),
        inputs,
        *arrays,
        "",  # all sequences of a batch have the same number of time steps
        *[graph.Unsqueeze(state, [0]) for state in before],
        outputs=1 + count,
        **attributes,
    )
    for state, last in zip(before, after, strict=True):
        graph.write_state(state, graph.Squeeze(last, [0]))
    return graph.Squeeze(states, [1])


def add_layers(
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
        value, gate = graph.add_outputs("Split", outputs, outputs=2, axis=-1)
        hidden = graph.Add(hidden, graph.Mul(value, graph.Sigmoid(gate)))
    return hidden


def _add_dense(graph: Graph, params: Params, inputs: str) -> str:
    """Adds a `TransposedDense` of `rnnmnist.models.linear` over the last axis."""
    outputs = graph.MatMul(inputs, params["kernel"].T)
    return graph.Add(outputs, params["bias"]) if "bias" in params else outputs


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
    states = graph.scan(step, driven, graph.read_state(2 * size))
    outputs = _add_dense(graph, params["output"], states)
    return graph.Add(outputs, graph.Mul(inputs, params["skip"]))


def add_filters(graph: Graph, params: Params, inputs: str, lengths: str) -> str:
    """Adds a `FilterBank` for [time, examples, features]; returns its hidden state.

    It is [examples, hidden].
    """
    thresholds, filters = params["thresholds"].shape
    is_read = graph.Less(add_times(graph, inputs), lengths)
    # The real and the imaginary part of each recurrence, and the largest outputs.
    before = [graph.read_state(filters) for _ in range(2 * ORDER + 1)]
    counts_before = graph.read_state(thresholds * filters)
    *after, counts = graph.add_outputs(
        "Scan",
        *before,
        graph.Reshape(counts_before, [0, thresholds, filters]),
        inputs,
        graph.Unsqueeze(is_read, [2]),
        outputs=len(before) + 1,
        body=_make_filter_step(graph, params),
        num_scan_inputs=2,
    )
    counts = graph.Flatten(counts)
    for state, last in zip([*before, counts_before], [*after, counts], strict=True):
        graph.write_state(state, last)
    shares = graph.Div(counts, count_time_steps(graph, lengths))
    largest = after[-1]
    return graph.Concat(shares, largest, axis=1)


def _make_filter_step(graph: Graph, params: Params) -> onnx.GraphProto:
    """Returns a time step of a `FilterBank`, the body of a loop.

    It maps the states, the largest outputs and the counts before the time step, its
    value, and whether it is before the padding, to those after it.
    """
    weights, thresholds = params["weights"], params["thresholds"]
    pole_real, pole_imaginary = map(graph.constant, params["pole"])
    phase_real, phase_imaginary = map(graph.constant, params["phase"])
    step = (
        f"real_0 = MatMul(value, {graph.constant(weights)}) "
        "imaginary_0 = Sub(real_0, real_0) "
    )
    names = []
    for k in range(1, ORDER + 1):
        names += [f"real_{k}", f"imaginary_{k}"]
        step += (
            f"rr_{k} = Mul({pole_real}, before_real_{k}) "
            f"ii_{k} = Mul({pole_imaginary}, before_imaginary_{k}) "
            f"ri_{k} = Mul({pole_real}, before_imaginary_{k}) "
            f"ir_{k} = Mul({pole_imaginary}, before_real_{k}) "
            f"kept_real_{k} = Sub(rr_{k}, ii_{k}) "
            f"kept_imaginary_{k} = Add(ri_{k}, ir_{k}) "
            f"real_{k} = Add(real_{k - 1}, kept_real_{k}) "
            f"imaginary_{k} = Add(imaginary_{k - 1}, kept_imaginary_{k}) "
        )
    step += (
        f"output_real = Mul({phase_real}, real_{ORDER}) "
        f"output_imaginary = Mul({phase_imaginary}, imaginary_{ORDER}) "
        "output = Sub(output_real, output_imaginary) "
        "larger = Max(before_largest, output) "
        "largest = Where(is_read, larger, before_largest) "
        "axis = Constant<value_ints = [1]>() "
        "column = Unsqueeze(output, axis) "
        f"is_above = Greater(column, {graph.constant(thresholds)}) "
        "read_column = Unsqueeze(is_read, axis) "
        "is_counted = And(is_above, read_column) "
        "counted = Cast<to = 1>(is_counted) "
        "counts = Add(before_counts, counted)"
    )
    number, filters = thresholds.shape
    shapes = dict.fromkeys([*names, "largest"], f"float[n, {filters}]")
    shapes["counts"] = f"float[n, {number}, {filters}]"
    before = ", ".join(f"{shape} before_{name}" for name, shape in shapes.items())
    after = ", ".join(f"{shape} {name}" for name, shape in shapes.items())
    return onnx.parser.parse_graph(
        f"step ({before}, float[n, {len(weights)}] value, bool[n, 1] is_read) "
        f"=> ({after}) {{ {step} }}"
    )


def add_times(graph: Graph, values: str, step: int = 1) -> str:
    """Adds the index of every `step`th time step of [time, ...], as [times, 1]."""
    time = graph.Squeeze(graph.Shape(values, end=1))
    return graph.Unsqueeze(graph.Range(0, time, step), [1])


def count_time_steps(graph: Graph, lengths: str) -> str:
    """Adds the number of time steps that are read up to the end of the block.

    It is float32 [examples, 1]. The lengths are those of the block.
    """
    before = graph.read_state(1)
    read = graph.Unsqueeze(graph.Cast(lengths, to=onnx.TensorProto.FLOAT), [1])
    after = graph.Add(before, read)
    graph.write_state(before, after)
    return after
