"""Runs `model.safetensors` with NumPy alone.

`load(FOLDER)(images)`, or `load(FOLDER)(sequences, lengths)`, returns the logits.
"""

import json

import numpy as np


def load(folder):
    """Returns a function from raw examples to logits."""
    config = json.loads((folder / "config.json").read_text())
    content = (folder / "model.safetensors").read_bytes()
    params = {}
    start = 8 + int.from_bytes(content[:8], "little")
    for name, entry in json.loads(content[8:start]).items():
        begin, end = (start + offset for offset in entry["data_offsets"])
        params[name] = np.frombuffer(content[begin:end], "<f4").reshape(entry["shape"])
    return lambda *examples: predict(config, params, *examples)


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


def predict(config, params, examples, lengths=None):
    """Returns the logits of raw examples, float32 [n, classes]."""

    def dense(name, x):
        return x @ params[f"{name}.kernel"] + params.get(f"{name}.bias", 0)

    def gate(name):
        return dense(f"cell.i{name}", x) + dense(f"cell.h{name}", h)

    def sigmoid(x):
        return (1 + np.tanh(x / 2)) / 2

    inputs = to_inputs(config, examples)
    states = []
    h = c = np.zeros((len(inputs), config["hidden_size"]), np.float32)
    for x in inputs.swapaxes(0, 1):
        if config["cell"] == "lstm":
            c = sigmoid(gate("f")) * c + sigmoid(gate("i")) * np.tanh(gate("g"))
            h = sigmoid(gate("o")) * np.tanh(c)
        elif config["cell"] == "gru":
            r, z = sigmoid(gate("r")), sigmoid(gate("z"))
            n = np.tanh(dense("cell.in", x) + r * dense("cell.hn", h))
            h = (1 - z) * n + z * h
        else:
            h = np.tanh(gate(""))
        states.append(h)
    if config["pooling"] == "mean":
        states = np.cumsum(states, 0) / np.arange(1, len(states) + 1)[:, None, None]
    last = np.full(len(inputs), len(states)) if lengths is None else lengths
    outputs = np.array(states)[last - 1, np.arange(len(inputs))]
    return dense("head", outputs).astype(np.float32)
