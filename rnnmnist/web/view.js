"use strict";

/* The user interface: a canvas to draw on, and networks that classify the drawing.
 *
 * The content of the page depends on the image, which `classify` sets, and on the number
 * of rows that have been read, which `showRow` sets.
 */

const MILLISECONDS_PER_ROW = 90;
const STROKE_TIMEOUT = 350; // milliseconds to wait for another stroke
const PEN_WIDTH = 1 / 12; // relative to the side of the canvas
const DIGITS = [...Array(10).keys()];

// The plotted quantities. `summarize` describes their mean magnitude after a row.
// Quantities that have a `limit` are signed. The others are gates, from 0 to 1.
const QUANTITIES = [
  {
    key: "input",
    title: "Input gate",
    text: "The fraction of its candidate that each unit adds to its cell state.",
    scaleLabels: ["closed", "open"],
    summarize: (mean) => `units add ${formatPercent(mean)} on average`,
  },
  {
    key: "forget",
    title: "Forget gate",
    text: "The fraction of its cell state that each unit keeps. Faint units forget.",
    scaleLabels: ["forgets", "keeps"],
    summarize: (mean) => `units keep ${formatPercent(mean)} on average`,
  },
  {
    key: "output",
    title: "Output gate",
    text: "The fraction of its cell state that each unit outputs as its hidden state.",
    scaleLabels: ["closed", "open"],
    summarize: (mean) => `units output ${formatPercent(mean)} on average`,
  },
  {
    key: "candidate",
    title: "Candidate",
    text: "The new value of each unit, computed from this row and the hidden states.",
    scaleLabels: ["−1", "+1"],
    limit: 1,
    summarize: (mean) => `mean magnitude ${mean.toFixed(2)}`,
  },
  {
    key: "cell",
    title: "Cell state",
    text: "The memory: the old state times the forget gate, plus the gated candidate.",
    limit: null, // depends on the network
    summarize: (mean) => `mean magnitude ${mean.toFixed(2)}`,
  },
  {
    key: "hidden",
    title: "Hidden state",
    text: "The output of the units. The prediction depends only on this output.",
    scaleLabels: ["−1", "+1"],
    limit: 1,
    summarize: (mean) => `mean magnitude ${mean.toFixed(2)}`,
  },
];

/* ---- Data ---- */

function decodeBase64(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

/** Decodes an IEEE half-precision number. Some browsers have no Float16Array. */
function decodeHalf(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1024 + fraction) * 2 ** (exponent - 25);
}

function decodeNetwork({ params, ...rest }) {
  const network = { ...rest };
  for (const [name, text] of Object.entries(params)) {
    // The weights are little-endian, like typed arrays in every browser.
    const halfFloats = new Uint16Array(decodeBase64(text).buffer);
    network[name] = Float32Array.from(halfFloats, decodeHalf);
  }
  return network;
}

const element = (id) => document.getElementById(id);
const data = JSON.parse(element("data").textContent);
const networks = data.networks.map(decodeNetwork);
const samples = data.samples.map((sample) => ({
  ...sample,
  pixels: decodeBase64(sample.pixels),
}));
const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");
const darkScheme = matchMedia("(prefers-color-scheme: dark)");

const state = {
  pixels: new Uint8Array(ROWS * COLUMNS), // the classified image
  label: null, // the label, if the image is a sample
  traces: [], // for each network, the result of `traceImage`
  row: 0, // the number of rows that have been read
  networkIndex: 0, // index of the network whose units are plotted
  playback: null, // timer of the playback; null while paused
  strokes: [], // lists of points from 0 to 1
  strokeTimer: null, // classifies the drawing unless another stroke follows
};

/* ---- Text ---- */

/** Formats a probability as a whole percentage, but never as 0 % or 100 %. */
function formatPercent(probability) {
  const text = `${Math.round(100 * clip(probability, 0.01, 0.99))}\u00a0%`;
  if (probability > 0.99) return `over ${text}`;
  return probability < 0.01 ? `under ${text}` : text;
}

function predictedDigit({ probabilities }) {
  return probabilities.indexOf(Math.max(...probabilities));
}

function isBlank() {
  return !state.pixels.some((level) => level > 0);
}

/** Describes the predictions of all networks after the last row. */
function describeResults() {
  if (isBlank()) return "";
  const ends = state.traces.map((trace) => trace[ROWS]);
  const digits = ends.map(predictedDigit);
  const predictions = digits.map(
    (digit, i) => `${digit} (${formatPercent(ends[i].probabilities[digit])})`,
  );
  const allAgree = digits.every((digit) => digit === digits[0]);
  let text = allAgree
    ? `Prediction: ${predictions[0]}.`
    : `The predictions differ: ${predictions.join(" and ")}.`;
  const highest = Math.max(...ends.flatMap(({ probabilities }) => probabilities));
  if (state.label === null && isScribble(state.pixels, highest)) {
    text = `This may not be a digit. ${text}`;
  }
  const isWrong = state.label !== null && digits.some((digit) => digit !== state.label);
  return isWrong ? `${text} Label: ${state.label}.` : text;
}

/** Returns the row from which the predicted digit stays the same until `row`. */
function firstStableRow(trace, row) {
  const digit = predictedDigit(trace[row]);
  let since = row;
  while (since > 1 && predictedDigit(trace[since - 1]) === digit) since -= 1;
  return since;
}

/* ---- Colours ---- */

/** Returns a colour from the style sheet as [red, green, blue]. */
function colour(name) {
  const hex = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  return [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));
}

/** Paints values as pixels; `shade(value, i)` returns [colour, opacity]. */
function paint(canvas, width, height, values, shade) {
  canvas.width = width;
  canvas.height = height;
  const imageData = new ImageData(width, height);
  values.forEach((value, i) => {
    const [[red, green, blue], opacity] = shade(value, i);
    imageData.data.set([red, green, blue, Math.round(255 * opacity)], 4 * i);
  });
  canvas.getContext("2d").putImageData(imageData, 0, 0);
}

/** Paints an image, and dims the rows from index `row` to the bottom. */
function paintImage(canvas, pixels, row = ROWS) {
  const foreground = colour("--foreground");
  paint(canvas, COLUMNS, ROWS, pixels, (level, i) => [
    foreground,
    (level / 255) * (i < row * COLUMNS ? 1 : 0.22),
  ]);
}

/* ---- Drawing ---- */

function showDrawing() {
  const canvas = element("drawing");
  const side = Math.round(canvas.clientWidth * (window.devicePixelRatio || 1));
  if (canvas.width !== side) {
    canvas.width = side;
    canvas.height = side;
  }
  const context = canvas.getContext("2d");
  context.setTransform(side, 0, 0, side, 0, 0);
  context.clearRect(0, 0, 1, 1);
  context.strokeStyle = `rgb(${colour("--foreground").join(", ")})`;
  drawStrokes(context, state.strokes, PEN_WIDTH);
  element("prompt").hidden = state.strokes.length > 0;
  // The attribute `disabled` would remove the keyboard focus.
  element("undo").setAttribute("aria-disabled", String(state.strokes.length === 0));
}

function toPoint(event) {
  const { left, top, width, height } = element("drawing").getBoundingClientRect();
  const x = (event.clientX - left) / width;
  const y = (event.clientY - top) / height;
  return [clip(x, 0, 1), clip(y, 0, 1)];
}

function beginStroke(event) {
  if (event.button !== 0 || !event.isPrimary) return;
  element("drawing").setPointerCapture(event.pointerId);
  clearTimeout(state.strokeTimer);
  pause();
  state.strokes.push([toPoint(event)]);
  showDrawing();
}

function continueStroke(event) {
  if (!element("drawing").hasPointerCapture(event.pointerId)) return;
  const events = event.getCoalescedEvents?.() ?? [];
  state.strokes.at(-1).push(...(events.length > 0 ? events : [event]).map(toPoint));
  showDrawing();
}

function endStroke() {
  clearTimeout(state.strokeTimer);
  state.strokeTimer = setTimeout(classifyDrawing, STROKE_TIMEOUT);
}

function classifyDrawing() {
  classify(rasterize(state.strokes, data.format), null);
}

function setStrokes(strokes) {
  clearTimeout(state.strokeTimer);
  state.strokes = strokes;
  showDrawing();
  classifyDrawing();
}

/* ---- Classification and playback ---- */

/** Classifies an image and starts the playback from the first row. */
function classify(pixels, label) {
  pause();
  state.pixels = pixels;
  state.label = label;
  state.traces = networks.map((network) => traceImage(network, pixels));
  showSelectedSample();
  if (isBlank()) {
    showRow(0);
  } else if (reducedMotion.matches) {
    showRow(ROWS);
  } else {
    showRow(0);
    play();
  }
}

function play() {
  if (state.row === ROWS) showRow(0);
  state.playback = setInterval(() => {
    showRow(state.row + 1);
    if (state.row === ROWS) pause();
  }, MILLISECONDS_PER_ROW);
  showPlayback();
}

function pause() {
  clearInterval(state.playback);
  state.playback = null;
  showPlayback();
}

function togglePlayback() {
  if (state.playback === null) play();
  else pause();
}

function goTo(row) {
  pause();
  showRow(row);
}

function showPlayback() {
  element("play").textContent = state.playback === null ? "Play" : "Pause";
}

/** Updates the whole page to show the state after `row` rows. */
function showRow(row) {
  state.row = row;
  const text = `row ${row} of ${ROWS}`;
  element("row").value = row;
  element("row").setAttribute("aria-valuetext", text);
  element("row-label").textContent = text;
  paintImage(element("image"), state.pixels, row);
  const alt = `Image of 28 by 28 pixels, read up to ${text}`;
  element("image").setAttribute("aria-label", alt);
  element("marker").style.top = `calc(${Math.max(row - 1, 0)} * var(--cell))`;
  element("marker").hidden = row === 0;
  element("result").textContent = row === ROWS ? describeResults() : "";
  panels.forEach((panel, i) => showPanel(panel, state.traces[i], row));
  showMaps();
}

/* ---- Predictions of each network ---- */

function cloneTemplate(id) {
  return element(id).content.firstElementChild.cloneNode(true);
}

function makePanel(network) {
  const panel = cloneTemplate("panel-template");
  const part = (selector) => panel.querySelector(selector);
  part("h2").textContent = network.title;
  part(".training").textContent =
    network.loss === "every_step"
      ? "Training loss after every row."
      : "Training loss after the last row only.";
  const bars = DIGITS.map((digit) => {
    const bar = cloneTemplate("bar-template");
    bar.style.color = `var(--digit-${digit})`;
    bar.querySelector(".name").textContent = digit;
    part(".bars").append(bar);
    return bar;
  });
  const curves = DIGITS.map((digit) => {
    const curve = cloneTemplate("curve-template").querySelector(".curve");
    curve.style.color = `var(--digit-${digit})`;
    part(".curves").append(curve);
    return curve;
  });
  element("panels").append(panel);
  return { part, bars, curves, title: network.title };
}

function showPanel({ part, bars, curves, title }, trace, row) {
  const { probabilities } = trace[row];
  const digit = predictedDigit(trace[row]);
  const text = `${formatPercent(probabilities[digit])}\npredicted since row ${firstStableRow(trace, row)}`;
  part(".digit").textContent = row === 0 ? "?" : digit;
  part(".probability").textContent = row === 0 ? "no rows read" : text;
  bars.forEach((bar, i) => {
    bar.querySelector(".fill").style.transform = `scaleY(${probabilities[i]})`;
    bar.classList.toggle("leads", row > 0 && i === digit);
  });
  const alt = `${title}, after row ${row}: ${digit}, ${formatPercent(probabilities[digit])}`;
  part(".bars").setAttribute("aria-label", `Probabilities. ${alt}`);
  part(".curves").setAttribute("aria-label", `Probabilities after each row so far. ${alt}`);
  part(".now").setAttribute("transform", `translate(${curveX(row)} 0)`);
  showCurves(curves, trace, row);
}

function curveX(row) {
  return 38 + 8 * row;
}

function curveY(probability) {
  return 122 - 112 * probability;
}

/** Draws curves up to a row, and labels curves that end above 10 % and have space. */
function showCurves(curves, trace, row) {
  const { probabilities } = trace[row];
  const ranked = [...DIGITS].sort((a, b) => probabilities[b] - probabilities[a]);
  const heights = []; // of the labels placed so far
  for (const digit of ranked) {
    const values = trace.slice(0, row + 1).map((timeStep) => timeStep.probabilities[digit]);
    const points = values.map((value, i) => `${curveX(i)},${curveY(value)}`);
    const [line, label] = curves[digit].children;
    line.setAttribute("points", points.join(" "));
    const height = curveY(probabilities[digit]);
    const hasSpace = heights.every((other) => Math.abs(other - height) > 11);
    const isLabelled = row > 0 && probabilities[digit] > 0.1 && hasSpace;
    if (isLabelled) heights.push(height);
    label.textContent = isLabelled ? digit : "";
    label.setAttribute("x", curveX(row) + 6);
    label.setAttribute("y", height + 4);
  }
}

/* ---- Units of a network ---- */

const mapScales = []; // for each network, computed on first use

/** Returns the units sorted by mean forget gate, and the range of the cell states. */
function computeMapScale(network) {
  const timeSteps = samples.flatMap(({ pixels }) => traceImage(network, pixels).slice(1));
  const forget = Array.from({ length: network.units }, (_, unit) =>
    timeSteps.reduce((sum, timeStep) => sum + timeStep.forget[unit], 0),
  );
  const order = forget.map((_, unit) => unit).sort((a, b) => forget[a] - forget[b]);
  const magnitudes = timeSteps.flatMap(({ cell }) => [...cell].map(Math.abs));
  magnitudes.sort((a, b) => a - b);
  return { order, limit: magnitudes[Math.floor(0.995 * magnitudes.length)] };
}

function makeMap({ title, text, limit }) {
  const map = cloneTemplate("map-template");
  map.querySelector("h3").textContent = title;
  map.querySelector("p").textContent = text;
  map.querySelector(".scale").classList.toggle("signed", limit !== undefined);
  element("maps").append(map);
  return map;
}

function showMaps() {
  const network = networks[state.networkIndex];
  const scale = (mapScales[state.networkIndex] ??= computeMapScale(network));
  QUANTITIES.forEach((quantity, i) => showMap(maps[i], quantity, network, scale));
}

function showMap(map, { key, title, scaleLabels, limit, summarize }, network, scale) {
  const signed = limit !== undefined;
  const max = (signed ? limit : 1) ?? scale.limit;
  const positive = colour("--series-0");
  const negative = colour("--series-1");
  const timeSteps = state.traces[state.networkIndex].slice(1, state.row + 1);
  const values = timeSteps.flatMap((timeStep) =>
    scale.order.map((unit) => timeStep[key][unit]),
  );
  const canvas = map.querySelector("canvas");
  paint(canvas, network.units, ROWS, values, (value) => [
    value < 0 ? negative : positive,
    Math.min(Math.abs(value) / max, 1),
  ]);
  const [low, high] = scaleLabels ?? [`−${max.toFixed(1)}`, `+${max.toFixed(1)}`];
  map.querySelector(".low").textContent = low;
  map.querySelector(".high").textContent = high;
  const row = timeSteps.at(-1)?.[key];
  const sentence = row ? `Row ${state.row}: ${summarize(meanMagnitude(row))}` : "";
  map.querySelector(".now").textContent = sentence;
  const alt = `${title} of ${network.units} units after each row read`;
  canvas.setAttribute("aria-label", `${alt}. ${sentence}`);
}

function meanMagnitude(values) {
  return values.reduce((sum, value) => sum + Math.abs(value), 0) / values.length;
}

function makeChoice({ title }, index) {
  const label = cloneTemplate("choice-template");
  label.querySelector("span").textContent = title;
  const input = label.querySelector("input");
  input.checked = index === state.networkIndex;
  input.addEventListener("change", () => {
    state.networkIndex = index;
    showMaps();
  });
  element("choice").append(label);
}

/* ---- Samples ---- */

function makeSample({ label, pixels }) {
  const button = document.createElement("button");
  button.type = "button";
  button.title = `Sample, label ${label}`;
  button.setAttribute("aria-label", button.title);
  button.append(document.createElement("canvas"));
  button.addEventListener("click", () => {
    clearTimeout(state.strokeTimer);
    state.strokes = [];
    showDrawing();
    classify(pixels, label);
  });
  element("samples").append(button);
  return button;
}

function showSelectedSample() {
  samples.forEach(({ pixels }, i) => {
    thumbnails[i].setAttribute("aria-pressed", String(pixels === state.pixels));
  });
}

function showThumbnails() {
  samples.forEach(({ pixels }, i) => paintImage(thumbnails[i].firstChild, pixels));
}

/* ---- Start ---- */

function addListeners() {
  const drawing = element("drawing");
  drawing.addEventListener("pointerdown", beginStroke);
  drawing.addEventListener("pointermove", continueStroke);
  drawing.addEventListener("lostpointercapture", endStroke); // lifted or interrupted
  element("undo").addEventListener("click", () => setStrokes(state.strokes.slice(0, -1)));
  element("clear").addEventListener("click", () => setStrokes([]));
  element("play").addEventListener("click", togglePlayback);
  element("row").addEventListener("input", () => goTo(Number(element("row").value)));
  window.addEventListener("resize", showDrawing);
  darkScheme.addEventListener("change", repaint);
}

/** Repaints the canvases in new colours, which the style sheet cannot change. */
function repaint() {
  showDrawing();
  showThumbnails();
  showRow(state.row);
}

const panels = networks.map(makePanel);
const maps = QUANTITIES.map(makeMap);
const thumbnails = samples.map(makeSample);
networks.forEach(makeChoice);
element("choice").hidden = networks.length < 2;
addListeners();
showDrawing();
showThumbnails();
// For tests, and for use in the browser console.
window.rnnmnist = {
  rasterize: (strokes) => rasterize(strokes, data.format),
  logits(levels, network) {
    const pixels = Uint8Array.from(levels);
    const timeSteps = traceImage(networks[network], pixels).slice(1);
    return timeSteps.map(({ logits }) => logits);
  },
};
// The page initially shows a sample.
classify(samples[0].pixels, samples[0].label);
