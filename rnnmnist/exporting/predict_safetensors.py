"""Runs `model.safetensors` with NumPy alone.

`load(FOLDER)(images)`, or `load(FOLDER)(sequences, lengths)`, returns the logits.
"""

import json

import numpy as np


def load(folder):
    """Returns a function from raw examples to logits."""
    config = json.loads((folder / "config.json").read_text())
    content = (folder / "model.safetensors").read_bytes()
    members = [{} for _ in range(config.get("members", 1))]
    start = 8 + int.from_bytes(content[:8], "little")
    for name, entry in json.loads(content[8:start]).items():
        begin, end = (start + offset for offset in entry["data_offsets"])
        index, name = name.split(".", 1) if len(members) > 1 else (0, name)
        array = np.frombuffer(content[begin:end], "<f4").reshape(entry["shape"])
        members[int(index)][name] = array
    return lambda *examples: predict(config, members, *examples)


def to_inputs(config, examples):
    """Converts raw examples to inputs, float32 [n, time, features]."""
    if config["pixel_order"] is not None:  # of images, uint8 [n, rows, columns]
        pixels = examples.reshape(len(examples), -1) / np.float32(255)
        return pixels[:, np.array(config["pixel_order"])]
    inputs = ((examples - np.array(config["mean"])) / config["std"]).astype(np.float32)
    if config["missing"] == "forward_fill":
        times = np.arange(inputs.shape[1])[:, None]
        last = np.maximum.accumulate(np.where(np.isnan(inputs), 0, times), axis=1)
        inputs = np.take_along_axis(inputs, last, axis=1)
    if config["missing"] != "error":
        inputs = np.where(np.isnan(inputs), np.float32(0), inputs)
    return inputs


def predict(config, members, examples, lengths=None):
    """Returns the logits of raw examples, float32 [n, classes].

    Of an ensemble, they are the logarithms of its members' mean probabilities.
    """
    inputs = to_inputs(config, examples).swapaxes(0, 1)
    if "difference_std" in members[0]:
        differences = np.diff(inputs, axis=0, prepend=inputs[:1])
        differences = differences / members[0]["difference_std"]
        inputs = np.concatenate([inputs, differences], axis=-1)
    if lengths is None:
        lengths = np.full(inputs.shape[1], len(inputs))
    inputs[np.arange(len(inputs))[:, None] >= lengths] = 0
    size, stride = config["window"], config["stride"]
    padded = np.pad(inputs, ((size - stride, stride - 1), (0, 0), (0, 0)))
    starts = np.arange(0, len(inputs), stride)
    inputs = np.concatenate([padded[starts + index] for index in range(size)], axis=-1)
    last = (lengths - 1) // stride
    directions = {"": inputs}
    if config.get("bidirectional"):
        order = (last - np.arange(len(inputs))[:, None]) % len(inputs)
        directions["backward_"] = np.take_along_axis(inputs, order[:, :, None], axis=0)
    outputs = []
    for params in members:
        pooled = [
            read(config, params, prefix, sequences)[last, np.arange(len(last))]
            for prefix, sequences in directions.items()
        ]
        pooled = np.concatenate(pooled, axis=1)
        outputs.append(pooled @ params["head.kernel"] + params["head.bias"])
    outputs = np.array(outputs)
    logits = outputs[0]
    if len(members) > 1:  # logarithms of mean probabilities
        logs = outputs - np.logaddexp.reduce(outputs, -1, keepdims=True)
        logits = np.logaddexp.reduce(logs, 0) - np.log(len(members))
    logits[~np.isfinite(inputs).all((0, 2))] = np.nan  # which gates would hide
    return logits.astype(np.float32)


def read(config, params, prefix, inputs):
    """Returns the hidden states of a recurrence, or their means so far."""
    is_linear = config["cell"] in ("lru", "mingru")
    start = prefix + ("layers." if is_linear else "cell.")
    own = {key[len(start) :]: params[key] for key in params if key.startswith(start)}
    hidden = (run_layers if is_linear else run_cell)(config, own, inputs)
    if config["pooling"] == "mean":
        hidden = np.cumsum(hidden, 0) / np.arange(1, len(hidden) + 1)[:, None, None]
    return hidden


def run_cell(config, params, inputs):
    """Returns the hidden states of an LSTM, a GRU or a basic cell."""

    def dense(name, x):
        return x @ params[f"{name}.kernel"] + params.get(f"{name}.bias", 0)

    def gate(name):
        return dense(f"i{name}", x) + dense(f"h{name}", h)

    states = []
    h = c = np.zeros((inputs.shape[1], config["hidden_size"]), np.float32)
    for x in inputs:
        if config["cell"] == "lstm":
            c = sigmoid(gate("f")) * c + sigmoid(gate("i")) * np.tanh(gate("g"))
            h = sigmoid(gate("o")) * np.tanh(c)
        elif config["cell"] == "gru":
            r, z = sigmoid(gate("r")), sigmoid(gate("z"))
            n = np.tanh(dense("in", x) + r * dense("hn", h))
            h = (1 - z) * n + z * h
        else:
            h = np.tanh(gate(""))
        states.append(h)
    return np.array(states)


def run_layers(config, params, inputs):
    """Returns the outputs of the residual layers around LRUs or minGRUs."""

    def dense(name, x):
        return x @ params[f"{name}.kernel"].T + params.get(f"{name}.bias", 0)

    hidden = dense("encoder", inputs)
    for layer in (f"layer_{index}" for index in range(config["num_layers"])):
        x = hidden - hidden.mean(-1, keepdims=True)
        x = x / np.sqrt(np.mean(x * x, -1, keepdims=True) + np.float32(1e-6))
        x = x * params[f"{layer}.norm.scale"] + params[f"{layer}.norm.bias"]
        first, second = np.split(dense(f"{layer}.recurrence.input", x), 2, axis=-1)
        if config["cell"] == "lru":
            nu, theta, gamma, skip = (
                params[f"{layer}.recurrence.{name}"]
                for name in ("nu_log", "theta_log", "gamma_log", "skip")
            )
            decay = np.exp(-np.exp(nu) + 1j * np.exp(theta))
            states = scan(decay, np.exp(gamma) * (first + 1j * second))
            parts = np.concatenate([states.real, states.imag], axis=-1)
            x = dense(f"{layer}.recurrence.output", parts) + skip * x
        else:
            update = sigmoid(first)
            x = scan(1 - update, update * second)
        x = x * sigmoid((8 / np.pi) ** 0.5 * (x + 0.044715 * x * x * x))  # GELU
        value, gate = np.split(dense(f"{layer}.glu", x), 2, axis=-1)
        hidden = hidden + value * sigmoid(gate)
    return hidden


def scan(decay, values):
    """Returns the states h[t] = decay[t] h[t - 1] + values[t]."""
    states = []
    h = 0
    for a, x in zip(np.broadcast_to(decay, values.shape), values, strict=True):
        h = a * h + x
        states.append(h)
    return np.array(states)


def sigmoid(x):
    """Returns the logistic function of an array."""
    return (1 + np.tanh(x / 2)) / 2
