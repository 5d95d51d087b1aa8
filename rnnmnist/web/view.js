"use strict";

/* The page: a canvas to draw on, and the networks that classify the drawing.
 *
 * Everything shown is a function of the image, which `classify` sets, and of the number
 * of rows read, which `showRow` sets.
 */

const MILLISECONDS_PER_ROW = 90;
const PAUSE_AFTER_STROKE = 350; // milliseconds, within which the next stroke may begin
const PEN_WIDTH = 1 / 12; // relative to the side of the canvas
const CONFIDENT = 0.8; // a prediction below this probability is shown as uncertain
const COLOURED = 5; // number of digits whose curves are coloured

const REJECTED = "out of distribution";

// A drawing of a 3, played when the page opens: points [x, y] of its only stroke.
const MILLISECONDS_PER_POINT = 30;
const RECORDED = [
  [0.302, 0.226], [0.333, 0.183], [0.386, 0.147], [0.456, 0.128], [0.513, 0.126],
  [0.58, 0.135], [0.632, 0.156], [0.668, 0.194], [0.685, 0.236], [0.684, 0.288],
  [0.669, 0.334], [0.631, 0.37], [0.577, 0.405], [0.518, 0.417], [0.548, 0.404],
  [0.602, 0.42], [0.647, 0.458], [0.683, 0.493], [0.719, 0.531], [0.732, 0.578],
  [0.732, 0.62], [0.708, 0.661], [0.674, 0.7], [0.631, 0.732], [0.574, 0.744],
  [0.519, 0.749], [0.47, 0.745], [0.402, 0.737], [0.358, 0.708], [0.313, 0.678],
  [0.278, 0.639],
];

// The plotted quantities, and a sentence on their mean magnitude after a row. Gates are
// from 0 to 1; those with a `limit` are signed.
const MAPS = [
  {
    part: "input",
    title: "Input gate",
    text: "How much of its candidate each unit adds to its cell state.",
    ends: ["closed", "open"],
    now: (mean) => `units add ${percent(mean)} on average`,
  },
  {
    part: "forget",
    title: "Forget gate",
    text: "How much of its cell state each unit keeps. Faint units forget.",
    ends: ["forgets", "keeps"],
    now: (mean) => `units keep ${percent(mean)} on average`,
  },
  {
    part: "output",
    title: "Output gate",
    text: "How much of its cell state each unit passes on as its hidden state.",
    ends: ["closed", "open"],
    now: (mean) => `units pass on ${percent(mean)} on average`,
  },
  {
    part: "candidate",
    title: "Candidate",
    text: "The new value of each unit, computed from this row and the hidden states.",
    ends: ["−1", "+1"],
    limit: 1,
    now: (mean) => `mean magnitude ${mean.toFixed(2)}`,
  },
  {
    part: "cell",
    title: "Cell state",
    text: "The memory: the old state times the forget gate, plus the gated candidate.",
    limit: null, // depends on the network
    now: (mean) => `mean magnitude ${mean.toFixed(2)}`,
  },
  {
    part: "hidden",
    title: "Hidden state",
    text: "The output of the units. The prediction is computed from it alone.",
    ends: ["−1", "+1"],
    limit: 1,
    now: (mean) => `mean magnitude ${mean.toFixed(2)}`,
  },
];

/* ---- Data ---- */

function decodeBase64(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

/** Decodes an IEEE half-precision number; not every browser has Float16Array. */
function decodeHalf(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const [exponent, fraction] = [(bits >> 10) & 31, bits & 1023];
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1024 + fraction) * 2 ** (exponent - 25);
}

function decodeNetwork({ params, ...rest }) {
  // Weights are little-endian, which is every browser's own format.
  const weights = Object.entries(params).map(([name, text]) => [
    name,
    Float32Array.from(new Uint16Array(decodeBase64(text).buffer), decodeHalf),
  ]);
  return { ...rest, ...Object.fromEntries(weights) };
}

const element = (id) => document.getElementById(id);
const data = JSON.parse(element("data").textContent);
const networks = data.networks.map(decodeNetwork);
const check = decodeNetwork(data.outOfDistribution);
const samples = data.samples.map((sample) => ({
  ...sample,
  pixels: decodeBase64(sample.pixels),
}));
const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");
const darkScheme = matchMedia("(prefers-color-scheme: dark)");

const state = {
  pixels: new Uint8Array(ROWS * COLUMNS), // the classified image
  label: null, // of a sample
  traces: [], // of each network: the steps before the first row and after each
  accepted: true, // the result of the out-of-distribution check
  row: 0, // number of rows read
  inspected: 0, // index of the network whose units are plotted
  playback: null, // the timer, while rows are played
  strokes: [], // lists of points from 0 to 1
  recorded: true, // whether the strokes are those of the recorded drawing
  pending: null, // the timer, while another stroke may follow
};

/* ---- Text ---- */

/** Formats a probability in whole percent; never as 0 % or 100 %. */
function percent(probability) {
  const text = `${Math.round(100 * clip(probability, 0.01, 0.99))}\u00a0%`;
  if (probability > 0.99) return `over ${text}`;
  return probability < 0.01 ? `under ${text}` : text;
}

/** Returns the digits in order of descending probability. */
function ranked(probabilities) {
  return probabilities
    .map((_, digit) => digit)
    .sort((a, b) => probabilities[b] - probabilities[a]);
}

function predictedDigit({ probabilities }) {
  return ranked(probabilities)[0];
}

function isBlank() {
  return !state.pixels.some((level) => level > 0);
}

function finalSteps() {
  return state.traces.map((trace) => trace[ROWS]);
}

function withProbability(digit, { probabilities }) {
  return `${digit} (${percent(probabilities[digit])})`;
}

/** Describes the final predictions, and a sample's label if one of them is wrong. */
function resultText() {
  if (isBlank()) return state.recorded ? "" : "The image is blank. Draw a digit.";
  const steps = finalSteps();
  const digits = steps.map(predictedDigit);
  const agreed = digits.every((digit) => digit === digits[0]);
  const predictions = digits.map((digit, i) => withProbability(digit, steps[i]));
  const listed = agreed ? predictions[0] : predictions.join(" and ");
  let text = agreed ? predictionText(steps[0]) : `The predictions differ: ${listed}.`;
  if (!state.accepted) text = `This does not look like a digit. Predicted: ${listed}.`;
  const wrong = state.label !== null && digits.some((digit) => digit !== state.label);
  return wrong ? `${text} Label: ${state.label}.` : text;
}

function predictionText(step) {
  const [first, second] = ranked(step.probabilities);
  return step.probabilities[first] >= CONFIDENT
    ? `Prediction: ${withProbability(first, step)}.`
    : `Uncertain: ${withProbability(first, step)} or ${withProbability(second, step)}.`;
}

/** Describes what the rows suggest, by a network that was trained to predict early. */
function progressText(row) {
  if (row === 0) return "No rows read yet.";
  const early = networks.findIndex(({ loss }) => loss === "every_step");
  if (early < 0) return `Row ${row}.`;
  const start =
    networks.length > 1 ? `Row ${row}, ${networks[early].title.toLowerCase()}` : `Row ${row}`;
  const trace = state.traces[early];
  const { probabilities } = trace[row];
  const [first, second, third] = ranked(probabilities);
  const best = withProbability(first, trace[row]);
  if (probabilities[first] < 0.5) {
    return `${start}: undecided, for instance ${first}, ${second} or ${third}.`;
  }
  if (probabilities[first] < 0.9) {
    return `${start}: probably ${best}, possibly ${second}.`;
  }
  return `${start}: ${best}, predicted since row ${stableSince(trace, row)}.`;
}

/** Returns the row since which the predicted digit has not changed. */
function stableSince(trace, row) {
  const digit = predictedDigit(trace[row]);
  let since = row;
  while (since > 1 && predictedDigit(trace[since - 1]) === digit) since -= 1;
  return since;
}

/* ---- Colours ---- */

function colour(name) {
  const hex = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  return [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));
}

/** Paints values as pixels: `shade(value, i)` returns a colour and an opacity. */
function paint(canvas, width, height, values, shade) {
  canvas.width = width;
  canvas.height = height;
  const painted = new ImageData(width, height);
  values.forEach((value, i) => {
    const [[red, green, blue], opacity] = shade(value, i);
    painted.data.set([red, green, blue, Math.round(255 * opacity)], 4 * i);
  });
  canvas.getContext("2d").putImageData(painted, 0, 0);
}

/** Paints an image; the rows from `row` on are dimmed. */
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
  if (canvas.width !== side) [canvas.width, canvas.height] = [side, side];
  const [red, green, blue] = colour("--foreground");
  const context = canvas.getContext("2d");
  context.setTransform(side, 0, 0, side, 0, 0);
  context.clearRect(0, 0, 1, 1);
  context.strokeStyle = `rgb(${red}, ${green}, ${blue})`;
  drawStrokes(context, state.strokes, PEN_WIDTH);
  element("prompt").hidden = state.strokes.length > 0 && !state.recorded;
  canvas.parentElement.classList.toggle("is-recorded", state.recorded);
  // `disabled` would take the keyboard focus away.
  element("undo").setAttribute("aria-disabled", String(state.strokes.length === 0));
}

function pointOf(event) {
  const { left, top, width, height } = element("drawing").getBoundingClientRect();
  const [x, y] = [(event.clientX - left) / width, (event.clientY - top) / height];
  return [clip(x, 0, 1), clip(y, 0, 1)];
}

function beginStroke(event) {
  if (event.button !== 0 || !event.isPrimary) return;
  element("drawing").setPointerCapture(event.pointerId);
  clearTimeout(state.pending);
  pause();
  if (state.recorded) Object.assign(state, { strokes: [], recorded: false });
  state.strokes.push([pointOf(event)]);
  showDrawing();
}

function continueStroke(event) {
  if (!element("drawing").hasPointerCapture(event.pointerId)) return;
  const events = event.getCoalescedEvents?.() ?? [];
  state.strokes.at(-1).push(...(events.length > 0 ? events : [event]).map(pointOf));
  showDrawing();
}

function endStroke() {
  clearTimeout(state.pending);
  state.pending = setTimeout(classifyDrawing, PAUSE_AFTER_STROKE);
}

function classifyDrawing() {
  classify(rasterize(state.strokes, data.format), null);
}

function undo() {
  if (state.strokes.length > 0) setStrokes(state.strokes.slice(0, -1));
}

function setStrokes(strokes) {
  clearTimeout(state.pending);
  Object.assign(state, { strokes, recorded: false });
  showDrawing();
  classifyDrawing();
}

/** Draws the recorded digit point by point, and classifies it. */
function replay(count) {
  const points = RECORDED.slice(0, count);
  Object.assign(state, { strokes: [points], recorded: true });
  showDrawing();
  if (count === RECORDED.length) classifyDrawing();
  else state.pending = setTimeout(replay, MILLISECONDS_PER_POINT, count + 1);
}

/** Completes the recorded drawing at once, if it is being drawn. */
function finishReplay() {
  if (!state.recorded || state.strokes[0].length === RECORDED.length) return;
  clearTimeout(state.pending);
  replay(RECORDED.length);
}

/* ---- Classification and playback ---- */

/** Classifies an image and plays it from the first row. */
function classify(pixels, label) {
  pause();
  Object.assign(state, { pixels, label });
  state.traces = networks.map((network) => traceImage(network, pixels));
  state.accepted = isDigit(check, pixels);
  showSelectedSample();
  colourDigits();
  showRow(reducedMotion.matches && !isBlank() ? ROWS : 0);
  if (state.row === 0 && !isBlank()) play();
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
  finishReplay();
  if (state.playback === null) play();
  else pause();
}

function goTo(row) {
  finishReplay();
  pause();
  showRow(clip(row, 0, ROWS));
}

function showPlayback() {
  const playing = state.playback !== null;
  element("playback").classList.toggle("is-playing", playing);
  element("play-label").textContent = playing ? "Pause" : "Play";
}

/** Updates the whole page to the state after a number of rows. */
function showRow(row) {
  state.row = row;
  const text = `row ${row} of ${ROWS}`;
  element("row").value = row;
  element("row").setAttribute("aria-valuetext", progressText(row));
  element("row-label").textContent = text;
  paintImage(element("image"), state.pixels, row);
  const alt = `The image of 28 by 28 pixels, read up to ${text}`;
  element("image").setAttribute("aria-label", alt);
  element("marker").style.top = `calc(${Math.max(row - 1, 0)} * var(--cell))`;
  element("marker").hidden = row === 0;
  const done = row === ROWS || isBlank();
  element("progress").textContent = done ? "" : progressText(row);
  element("result").textContent = done ? resultText() : "";
  const rejected = row === ROWS && !isBlank() && !state.accepted;
  panels.forEach((panel, i) => showPanel(panel, state.traces[i], row, rejected));
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
  const bars = [...Array(10).keys()].map((digit) => makeBar(part(".bars"), digit));
  const curves = bars.map(() => {
    const curve = cloneTemplate("curve-template").querySelector(".curve");
    part(".curves").append(curve);
    return curve;
  });
  element("panels").append(panel);
  return { part, bars, curves, title: network.title };
}

function makeBar(bars, digit) {
  const bar = document.createElement("div");
  const fill = document.createElement("span");
  const name = document.createElement("span");
  [bar.className, fill.className, name.className] = ["bar", "fill", "name"];
  name.textContent = digit;
  bar.append(fill, name);
  bars.append(bar);
  return bar;
}

/** Assigns colours to the predicted digits, then to those with the highest peaks. */
function colourDigits() {
  const steps = state.traces.flatMap((trace) => trace.slice(1));
  const peaks = [...Array(10).keys()].map((digit) =>
    Math.max(...steps.map(({ probabilities }) => probabilities[digit])),
  );
  const digits = [...finalSteps().map(predictedDigit), ...ranked(peaks)];
  const order = [...new Set(digits)].slice(0, COLOURED);
  for (const { bars, curves } of panels) {
    for (const [kind, parts] of Object.entries({ bar: bars, curve: curves })) {
      parts.forEach((part, digit) => {
        const rank = order.indexOf(digit);
        part.setAttribute("class", rank < 0 ? kind : `${kind} rank-${rank}`);
      });
    }
    const lastOnTop = order.map((digit) => curves[digit]).reverse();
    curves[0].parentNode.append(...lastOnTop);
  }
}

function showPanel({ part, bars, curves, title }, trace, row, rejected) {
  const { probabilities } = trace[row];
  const order = ranked(probabilities);
  const note = rejected ? REJECTED : `predicted since row ${stableSince(trace, row)}`;
  part(".digit").textContent = row === 0 ? "?" : order[0];
  part(".digit").classList.toggle("rejected", rejected);
  part(".probability").textContent =
    row === 0 ? "no rows read" : `${percent(probabilities[order[0]])}\n${note}`;
  bars.forEach((bar, digit) => {
    bar.querySelector(".fill").style.transform = `scaleY(${probabilities[digit]})`;
    bar.classList.toggle("leads", row > 0 && digit === order[0]);
  });
  const top = order.slice(0, 3).map((d) => `${d}, ${percent(probabilities[d])}`);
  const suffix = rejected ? `; ${REJECTED}` : "";
  const alt = `${title}, probabilities after row ${row}: ${top.join("; ")}${suffix}`;
  part(".bars").setAttribute("aria-label", alt);
  part(".curves").setAttribute("aria-label", `${alt}. Curves of all rows so far.`);
  part(".now").setAttribute("transform", `translate(${curveX(row)} 0)`);
  showCurves(curves, trace, row);
}

function curveX(row) {
  return 38 + 8 * row;
}

function curveY(probability) {
  return 122 - 112 * probability;
}

function showCurves(curves, trace, row) {
  const labelled = []; // heights of the labels so far
  for (const digit of ranked(trace[row].probabilities)) {
    const values = trace.slice(0, row + 1).map((step) => step.probabilities[digit]);
    const points = values.map((value, i) => `${curveX(i)},${curveY(value)}`);
    const [line, label] = curves[digit].children;
    line.setAttribute("points", points.join(" "));
    const height = curveY(values.at(-1));
    const free = labelled.every((other) => Math.abs(other - height) > 11);
    const visible = row > 0 && values.at(-1) > 0.1 && free;
    if (visible) labelled.push(height);
    label.textContent = visible ? digit : "";
    label.setAttribute("x", curveX(row) + 6);
    label.setAttribute("y", height + 4);
  }
}

/* ---- Units of a network ---- */

const mapScales = []; // of each network, computed at first use

/** Sorts the units by their mean forget gate, and finds the range of the cell state. */
function computeMapScale(network) {
  const steps = samples.flatMap(({ pixels }) => traceImage(network, pixels).slice(1));
  const forget = Array.from({ length: network.units }, (_, unit) =>
    steps.reduce((sum, step) => sum + step.forget[unit], 0),
  );
  const order = forget.map((_, unit) => unit).sort((a, b) => forget[a] - forget[b]);
  const magnitudes = steps.flatMap(({ cell }) => [...cell].map(Math.abs));
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
  const network = networks[state.inspected];
  const scale = (mapScales[state.inspected] ??= computeMapScale(network));
  MAPS.forEach((kind, i) => showMap(maps[i], kind, network, scale));
}

function showMap(map, { part, title, ends, limit, now }, network, scale) {
  const signed = limit !== undefined;
  const max = (signed ? limit : 1) ?? scale.limit;
  const [positive, negative] = [colour("--series-0"), colour("--series-1")];
  const steps = state.traces[state.inspected].slice(1, state.row + 1);
  const values = steps.flatMap((step) => scale.order.map((unit) => step[part][unit]));
  const canvas = map.querySelector("canvas");
  paint(canvas, network.units, ROWS, values, (value) => [
    value < 0 ? negative : positive,
    Math.min(Math.abs(value) / max, 1),
  ]);
  const [low, high] = ends ?? [`−${max.toFixed(1)}`, `+${max.toFixed(1)}`];
  map.querySelector(".low").textContent = low;
  map.querySelector(".high").textContent = high;
  const row = steps.at(-1)?.[part];
  const sentence = row ? `Row ${state.row}: ${now(meanMagnitude(row))}` : "";
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
  input.checked = index === state.inspected;
  input.addEventListener("change", () => {
    state.inspected = index;
    showMaps();
  });
  element("choice").append(label);
}

/* ---- Samples ---- */

function makeSample({ label, pixels, hard }) {
  const button = document.createElement("button");
  button.type = "button";
  button.title = `${hard ? "Hard" : "Easy"} sample, label ${label}`;
  button.setAttribute("aria-label", button.title);
  button.append(document.createElement("canvas"));
  button.addEventListener("click", () => {
    clearTimeout(state.pending);
    Object.assign(state, { strokes: [], recorded: false });
    showDrawing();
    classify(pixels, label);
  });
  element(hard ? "hard" : "easy").append(button);
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

/* ---- Events ---- */

function addListeners() {
  const drawing = element("drawing");
  drawing.addEventListener("pointerdown", beginStroke);
  drawing.addEventListener("pointermove", continueStroke);
  drawing.addEventListener("lostpointercapture", endStroke); // lifted or interrupted
  element("undo").addEventListener("click", undo);
  element("clear").addEventListener("click", () => setStrokes([]));
  element("restart").addEventListener("click", () => goTo(0));
  element("back").addEventListener("click", () => goTo(state.row - 1));
  element("play").addEventListener("click", togglePlayback);
  element("forward").addEventListener("click", () => goTo(state.row + 1));
  element("row").addEventListener("input", () => goTo(Number(element("row").value)));
  element("playback").addEventListener("keydown", handleKey);
  darkScheme.addEventListener("change", repaint);
  window.addEventListener("resize", showDrawing);
}

/** Steps by arrow keys on all playback buttons; the slider handles them itself. */
function handleKey(event) {
  const steps = { ArrowLeft: -1, ArrowRight: 1 };
  const onSlider = event.target === element("row");
  if (event.key === " " && onSlider) togglePlayback();
  else if (event.key in steps && !onSlider) goTo(state.row + steps[event.key]);
  else return;
  event.preventDefault();
}

function repaint() {
  showDrawing();
  showThumbnails();
  showRow(state.row);
}

/* ---- Start ---- */

const panels = networks.map(makePanel);
const maps = MAPS.map(makeMap);
const thumbnails = samples.map(makeSample);
networks.forEach(makeChoice);
element("choice").hidden = networks.length < 2;
addListeners();
showDrawing();
showThumbnails();
// For tests and the browser's console.
window.rnnmnist = {
  rasterize: (strokes) => rasterize(strokes, data.format),
  isDigit: (levels) => isDigit(check, Uint8Array.from(levels)),
  logits(levels, network) {
    const pixels = Uint8Array.from(levels);
    const steps = traceImage(networks[network], pixels).slice(1);
    return steps.map(({ logits }) => logits);
  },
};
classify(state.pixels, null);
replay(reducedMotion.matches ? RECORDED.length : 1);
