"""The recurrences in ONNX: each reads a block of time steps from its part of the state.

References:
    ONNX operators, https://onnx.ai/onnx/operators/, such as `LSTM`, `GRU` and `Scan`.
"""

import functools

import numpy as np
import onnx.parser

from rnnmnist.config.resolving import RunModelConfig
from rnnmnist.exporting.onnx_graph import Graph
from rnnmnist.models.classifier import Params
from rnnmnist.models.filters import ORDER

# The gates of each cell that has an operator, in ONNX's order, with Flax's names.
GATES = {"lstm": ("i", "o", "f", "g"), "gru": ("z", "r", "n"), "rnn": ("",)}


def add_cell(graph: Graph, config: RunModelConfig, params: Params, inputs: str) -> str:
    """Adds a recurrent operator for [time, examples, features]; returns its states."""
    units = config.hidden_size
    kernels = []
    biases = []
    for side in "ih":  # Flax's names of the kernels for inputs and for the hidden state
        layers = [params[f"{side}{gate}"] for gate in GATES[config.cell]]
        kernels.append(np.concatenate([layer["kernel"].T for layer in layers]))
        biases += [layer.get("bias", np.zeros(units)) for layer in layers]
    # The hidden state, and of an LSTM the cell state.
    count = 2 if config.cell == "lstm" else 1
    before = [graph.read_state(inputs, units) for _ in range(count)]
    # The first axis of parameters and states is that of directions.
    arrays = [array[None] for array in (*kernels, np.concatenate(biases))]
    add = functools.partial(
        graph.add_outputs,
        config.cell.upper(),
        inputs,
        *arrays,
        "",  # all sequences of a batch have the same number of time steps
        *[graph.Unsqueeze(state, [0]) for state in before],
        outputs=1 + count,
        hidden_size=units,
    )
    if config.cell == "gru":
        # Flax's GRU multiplies by the reset gate after the matrix product.
        states, *after = add(linear_before_reset=1)
    else:
        states, *after = add()
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


def add_filters(graph: Graph, params: Params, inputs: str, lengths: str) -> str:
    """Adds a `FilterBank` for [time, examples, features]; returns its hidden state.

    It is [examples, hidden].
    """
    thresholds, filters = params["thresholds"].shape
    times = graph.Range(0, graph.Squeeze(graph.Shape(inputs, end=1)), 1)
    is_read = graph.Less(graph.Unsqueeze(times, [1]), lengths)
    before = [graph.read_state(inputs, filters) for _ in _filter_states()]
    before.append(graph.read_state(inputs, filters))  # the largest outputs
    counts_before = graph.read_state(inputs, thresholds * filters)
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
    shares = graph.Div(counts, count_time_steps(graph, inputs, lengths))
    return graph.Concat(shares, after[-1], axis=1)


def count_time_steps(graph: Graph, inputs: str, lengths: str) -> str:
    """Adds the number of time steps that are read up to the end of the block.

    It is float32 [examples, 1]. Inputs and lengths are those of the block.
    """
    before = graph.read_state(inputs, 1)
    read = graph.Unsqueeze(graph.Cast(lengths, to=onnx.TensorProto.FLOAT), [1])
    after = graph.Add(before, read)
    graph.write_state(before, after)
    return after


def _filter_states() -> list[str]:
    """Returns the names of the states of filters: both parts of each recurrence."""
    parts = ("real", "imaginary")
    return [f"{part}_{stage}" for stage in range(1, ORDER + 1) for part in parts]


def _make_filter_step(graph: Graph, params: Params) -> onnx.GraphProto:
    """Returns a time step of a `FilterBank`, the body of a loop.

    It maps the states, the largest outputs and the counts before the time step, its
    value [n, features], and whether it is before the padding [n, 1], to the states, the
    largest outputs and the counts after it.
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
        "larger = Max(before_largest, output)",
        "largest = Where(is_read, larger, before_largest)",
        "axis = Constant<value_ints = [1]>()",
        "column = Unsqueeze(output, axis)",
        "is_above = Greater(column, {thresholds})",
        "read_column = Unsqueeze(is_read, axis)",
        "is_counted = And(is_above, read_column)",
        "counted = Cast<to = 1>(is_counted)",
        "counts = Add(before_counts, counted)",
    ]
    state = f"float[n, {filters}]"
    names = [*_filter_states(), "largest"]
    before = [f"{state} before_{name}" for name in names]
    after = [f"{state} {name}" for name in names]
    counts = f"float[n, {thresholds}, {filters}]"
    features = len(params["weights"])
    return onnx.parser.parse_graph(
        f"step ({', '.join(before)}, {counts} before_counts, "
        f"float[n, {features}] value, bool[n, 1] is_read) "
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
    states = graph.scan(step, driven, graph.read_state(driven, 2 * size))
    outputs = _add_dense(graph, params["output"], states)
    return graph.Add(outputs, graph.Mul(inputs, params["skip"]))


def _add_dense(graph: Graph, params: Params, inputs: str) -> str:
    """Adds a `Dense` of `rnnmnist.models.linear` over the last axis."""
    outputs = graph.MatMul(inputs, params["kernel"].T)
    return graph.Add(outputs, params["bias"]) if "bias" in params else outputs
