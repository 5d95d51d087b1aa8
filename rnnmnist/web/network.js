"use strict";

/* An LSTM classifier with trained weights.
 *
 * The LSTM reads the image from top to bottom, one row of 28 pixels per time step.
 * Between rows, it keeps two numbers per unit: the cell state and the hidden state.
 *
 * Hochreiter and Schmidhuber, "Long Short-Term Memory", Neural Computation 9(8), 1997.
 */

const ROWS = 28;
const COLUMNS = 28;

function sigmoid(x) {
  return 1 / (1 + Math.exp(-x));
}

/** Computes bias + inputs · kernel; the kernel is [inputs, outputs], row-major. */
function affine(inputs, kernel, bias) {
  const outputs = Float64Array.from(bias);
  inputs.forEach((input, i) => {
    if (input === 0) return; // most pixels are background
    const start = i * outputs.length;
    for (let j = 0; j < outputs.length; j += 1) outputs[j] += input * kernel[start + j];
  });
  return outputs;
}

function initialState(units) {
  return { cell: new Float64Array(units), hidden: new Float64Array(units) };
}

/** Reads one row, and returns the gates and the new state. */
function readRow(network, row, state) {
  const { units } = network;
  const rowSums = affine(row, network.row, network.bias);
  const sums = affine(state.hidden, network.hidden, rowSums);
  const gateSums = (index) => sums.subarray(index * units, (index + 1) * units);
  const input = gateSums(0).map(sigmoid);
  const forget = gateSums(1).map(sigmoid);
  const candidate = gateSums(2).map(Math.tanh);
  const output = gateSums(3).map(sigmoid);
  const cell = state.cell.map((value, u) => forget[u] * value + input[u] * candidate[u]);
  const hidden = cell.map((value, u) => output[u] * Math.tanh(value));
  return { input, forget, candidate, output, cell, hidden };
}

function softmax(logits) {
  const max = Math.max(...logits);
  const weights = logits.map((logit) => Math.exp(logit - max));
  const sum = weights.reduce((total, weight) => total + weight, 0);
  return weights.map((weight) => weight / sum);
}

/** Applies the output layer to the hidden state. */
function predict(network, { hidden }) {
  const outputs = [...affine(hidden, network.head, network.headBias)];
  const logits = outputs.map((output) => output / network.temperature);
  return { logits, probabilities: softmax(logits) };
}

/**
 * Classifies an image, and returns the intermediate values of every time step.
 *
 * @param network the weights as Float32Arrays, the number of units, and the temperature
 *   of the softmax.
 * @param pixels Uint8Array of 28 x 28 grey levels in row-major order.
 * @returns 29 objects with the state, logits and probabilities: one before the first row,
 *   and one after each row, which also contains the gates.
 */
function traceImage(network, pixels) {
  let state = initialState(network.units);
  const timeSteps = [{ ...state, ...predict(network, state) }];
  for (let start = 0; start < ROWS * COLUMNS; start += COLUMNS) {
    const row = [...pixels.subarray(start, start + COLUMNS)];
    state = readRow(network, row.map((level) => level / 255), state);
    timeSteps.push({ ...state, ...predict(network, state) });
  }
  return timeSteps;
}
