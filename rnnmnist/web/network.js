"use strict";

/* The network: a long short-term memory, or LSTM, with the very weights it learned.
 *
 * It never sees a whole image, only one row of 28 pixels at a time, from the top. Of
 * the rows before it has what its units remember, two numbers each: `cell`, which a
 * unit keeps to itself, and `hidden`, which the other units and the answer see.
 *
 * Hochreiter and Schmidhuber, "Long Short-Term Memory", Neural Computation 9(8), 1997.
 */

const ROWS = 28;
const COLUMNS = 28;

/** How far a gate opens: from 0, shut, to 1, open. */
function openness(sum) {
  return 1 / (1 + Math.exp(-sum));
}

/** Sums what arrives: `start`, and every input by its weight to every sum. */
function weighted(inputs, weights, start) {
  const sums = Float64Array.from(start);
  inputs.forEach((input, from) => {
    if (input === 0) return; // most pixels are blank
    const first = from * sums.length;
    for (let to = 0; to < sums.length; to += 1) {
      sums[to] += input * weights[first + to];
    }
  });
  return sums;
}

/** What the units hold before the first row: nothing. */
function emptyMemory(units) {
  return { cell: new Float64Array(units), hidden: new Float64Array(units) };
}

/** Reads one row: each unit forgets a little, takes a little in, shows a little. */
function readRow(network, row, before) {
  const { units } = network;
  const fromRow = weighted(row, network.row, network.bias);
  const sums = weighted(before.hidden, network.hidden, fromRow);
  const part = (place) => sums.subarray(place * units, (place + 1) * units);
  const input = part(0).map(openness); // how much is taken in
  const forget = part(1).map(openness); // how much is kept
  const candidate = part(2).map(Math.tanh); // what would be taken in
  const output = part(3).map(openness); // how much is shown
  const cell = before.cell.map((old, u) => forget[u] * old + input[u] * candidate[u]);
  const hidden = cell.map((value, u) => output[u] * Math.tanh(value));
  return { input, forget, candidate, output, cell, hidden };
}

/** Makes shares of one out of any ten numbers, the greatest share of the greatest. */
function softmax(logits) {
  const most = Math.max(...logits);
  const powers = logits.map((logit) => Math.exp(logit - most));
  const sum = powers.reduce((total, power) => total + power, 0);
  return powers.map((power) => power / sum);
}

/** Asks which digit it is, as far as the network has read. */
function ask(network, memory) {
  const logits = weighted(memory.hidden, network.head, network.headBias);
  return { logits: [...logits], belief: softmax([...logits]) };
}

/**
 * Reads an image, and asks the network before the first row and after each.
 *
 * @param network from the page's data: weights as Float32Arrays, and how many units.
 * @param pixels Uint8Array of 28 x 28 levels of ink, row by row.
 * @returns 29 moments, each with the units' gates and memory, and the belief.
 */
function readImage(network, pixels) {
  let memory = emptyMemory(network.units);
  const moments = [{ ...memory, ...ask(network, memory) }];
  for (let start = 0; start < ROWS * COLUMNS; start += COLUMNS) {
    const row = [...pixels.subarray(start, start + COLUMNS)];
    memory = readRow(network, row.map((level) => level / 255), memory);
    moments.push({ ...memory, ...ask(network, memory) });
  }
  return moments;
}
