"use strict";

/* The page: a sheet to draw on, and two networks that read what is drawn.
 *
 * All that is shown follows from two things, what is read and how many rows of it were:
 * `take` sets the first, `showRow` the second.
 */

const MILLISECONDS_A_ROW = 90;
const PAUSE_AFTER_STROKE = 350; // milliseconds, in which the next stroke may begin
const SHEET = 280; // pixels of a side, on which drawings are prepared
const PEN = 1 / 12; // of a side of the sheet
const SURE = 0.8; // below it, an answer is put as a guess
const COLOURED = 5; // curves of those digits that were believed in most

// What is shown of the units. Gates are from 0 to 1, the others to both sides of 0.
const MAPS = [
  {
    part: "input",
    title: "Input gate",
    text: "How much of the row just read each unit lets into its memory.",
    ends: ["shut", "open"],
  },
  {
    part: "forget",
    title: "Forget gate",
    text: "How much of its memory each unit keeps. Faint is forgetting.",
    ends: ["erases", "keeps"],
  },
  {
    part: "output",
    title: "Output gate",
    text: "How much of its memory each unit shows to the others and to the answer.",
    ends: ["hides", "shows"],
  },
  {
    part: "candidate",
    title: "Candidate",
    text: "What each unit would write down of this row, if the input gate let it.",
    ends: ["−1", "+1"],
    limit: 1,
  },
  {
    part: "cell",
    title: "Cell state",
    text: "The memory itself: what was kept of the old, and the new that was let in.",
    limit: null, // the network's own
  },
  {
    part: "hidden",
    title: "Hidden state",
    text: "What is shown of the memory. From these numbers alone comes the answer.",
    ends: ["−1", "+1"],
    limit: 1,
  },
];

/* ---- What the page carries ---- */

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

function networkOf({ title, loss, hidden, params }) {
  // float32, the least byte first, as wherever browsers run
  const weights = Object.entries(params).map(([name, base64]) => [
    name,
    new Float32Array(bytesOf(base64).buffer),
  ]);
  return { title, loss, units: hidden, ...Object.fromEntries(weights) };
}

function likenessOf({ means, axes, scales, ...limits }) {
  return {
    ...limits,
    means: bytesOf(means),
    axes: new Int8Array(bytesOf(axes).buffer),
    scales: new Float32Array(bytesOf(scales).buffer),
  };
}

const element = (id) => document.getElementById(id);
const data = JSON.parse(element("data").textContent);
const networks = data.networks.map(networkOf);
const likeness = likenessOf(data.likeness);
const samples = data.samples.map((sample) => ({
  ...sample,
  pixels: bytesOf(sample.pixels),
}));
const stillness = matchMedia("(prefers-reduced-motion: reduce)");
const darkness = matchMedia("(prefers-color-scheme: dark)");

const state = {
  pixels: new Uint8Array(ROWS * COLUMNS), // that are read
  label: null, // of a sample
  readings: [], // of each network, the moments before the first row and after each
  looks: [], // of each network, whether it is like the digit that it was taken for
  row: 0, // how many were read
  inside: 0, // the network that is looked into
  playing: null, // the timer, while rows are read one after the other
  strokes: [], // lists of points from 0 to 1
  waiting: null, // the timer, while a stroke may follow
};

/* ---- Words ---- */

/** A probability in whole percent, of which none is certainty. */
function percent(share) {
  const words = `${Math.round(100 * clipped(share, 0.01, 0.99))}\u00a0%`;
  if (share > 0.99) return `over ${words}`;
  return share < 0.01 ? `under ${words}` : words;
}

function one(digit) {
  return `${digit === 8 ? "an" : "a"} ${digit}`;
}

/** The digits from the one that is believed in most. */
function ranked(belief) {
  return belief.map((_, digit) => digit).sort((a, b) => belief[b] - belief[a]);
}

function isBlank() {
  return !state.pixels.some((level) => level > 0);
}

function lastBeliefs() {
  return state.readings.map((reading) => reading[ROWS].belief);
}

/** An answer as a sentence. */
function sentence(belief) {
  const [first, second] = ranked(belief);
  return belief[first] >= SURE
    ? `Read as ${first}, ${percent(belief[first])}. Runner-up ${second}.`
    : `Perhaps ${one(first)}, ${percent(belief[first])}; ` +
        `or ${one(second)}, ${percent(belief[second])}.`;
}

/** What all networks say in the end, and what the writer meant if that is known. */
function verdict() {
  if (isBlank()) return "Nothing here yet. Draw a digit.";
  const beliefs = lastBeliefs();
  const answers = beliefs.map((belief) => ranked(belief)[0]);
  const agreed = answers.every((answer) => answer === answers[0]);
  const shares = beliefs.map((belief) => percent(Math.max(...belief)));
  const named = answers.map((answer, at) => `${one(answer)}, ${shares[at]}`);
  const all = agreed ? named[0] : named.join("; or ");
  let words = agreed ? sentence(beliefs[0]) : `They disagree: ${all}.`;
  if (!state.looks.includes(true)) {
    words = `This does not look like a digit. If it is one: ${all}.`;
  } else if (state.looks.includes(false)) {
    words += " Not every network takes it for a digit.";
  }
  const { label } = state;
  const wrong = label !== null && answers.some((answer) => answer !== label);
  return wrong ? `${words} The writer meant ${one(label)}.` : words;
}

/** What networks believe so far. */
function guess(row) {
  if (row === 0) return "Nothing read yet.";
  const answers = state.readings.map((reading) => ranked(reading[row].belief)[0]);
  return `After row ${row}: ${[...new Set(answers)].join(" or ")}?`;
}

/** Since which row a network has given the answer that it gives now. */
function sinceRow(reading, row) {
  const answer = ranked(reading[row].belief)[0];
  let since = row;
  while (since > 1 && ranked(reading[since - 1].belief)[0] === answer) since -= 1;
  return since;
}

/* ---- Colours ---- */

function colour(name) {
  const hex = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  return [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));
}

/** Paints numbers as pixels: `shade(value, at)` gives a colour and an opacity. */
function paint(canvas, width, height, values, shade) {
  canvas.width = width;
  canvas.height = height;
  const painted = new ImageData(width, height);
  values.forEach((value, at) => {
    const [[red, green, blue], opacity] = shade(value, at);
    painted.data.set([red, green, blue, Math.round(255 * opacity)], 4 * at);
  });
  canvas.getContext("2d").putImageData(painted, 0, 0);
}

/** Paints an image, the rows from `row` on as if behind fog. */
function paintImage(canvas, pixels, row = ROWS) {
  const ink = colour("--ink");
  paint(canvas, COLUMNS, ROWS, pixels, (level, at) => [
    ink,
    (level / 255) * (at < row * COLUMNS ? 1 : 0.22),
  ]);
}

/* ---- The sheet ---- */

/** Draws all strokes as smooth lines on a square of `side` pixels. */
function drawStrokes(context, side, colourName) {
  context.clearRect(0, 0, side, side);
  context.lineWidth = PEN * side;
  context.lineCap = "round";
  context.lineJoin = "round";
  context.strokeStyle = colourName;
  for (const stroke of state.strokes) {
    const points = stroke.map(([x, y]) => [x * side, y * side]);
    context.beginPath();
    context.moveTo(...points[0]);
    for (let at = 1; at < points.length - 1; at += 1) {
      const [[x, y], [nextX, nextY]] = [points[at], points[at + 1]];
      context.quadraticCurveTo(x, y, (x + nextX) / 2, (y + nextY) / 2);
    }
    context.lineTo(...points.at(-1)); // a tap is a dot
    context.stroke();
  }
}

function showDrawing() {
  const canvas = element("drawing");
  const side = Math.round(canvas.clientWidth * (window.devicePixelRatio || 1));
  if (canvas.width !== side) [canvas.width, canvas.height] = [side, side];
  const [red, green, blue] = colour("--ink");
  drawStrokes(canvas.getContext("2d"), side, `rgb(${red}, ${green}, ${blue})`);
  element("prompt").hidden = state.strokes.length > 0;
  // Not `disabled`, which would take the focus away from under a finger on a key.
  element("undo").setAttribute("aria-disabled", String(state.strokes.length === 0));
}

/** The drawing's levels of ink, for the preparation. */
function drawnLevels() {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [SHEET, SHEET];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  drawStrokes(context, SHEET, "black");
  const { data: channels } = context.getImageData(0, 0, SHEET, SHEET);
  return channels.filter((_, at) => at % 4 === 3); // the opacity is the ink
}

function pointOf(event) {
  const { left, top, width, height } = element("drawing").getBoundingClientRect();
  return [(event.clientX - left) / width, (event.clientY - top) / height];
}

function beginStroke(event) {
  if (event.button !== 0 || !event.isPrimary) return;
  element("drawing").setPointerCapture(event.pointerId);
  clearTimeout(state.waiting);
  pause();
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
  clearTimeout(state.waiting);
  state.waiting = setTimeout(readDrawing, PAUSE_AFTER_STROKE);
}

function readDrawing() {
  take(prepareDrawing(data.constants, drawnLevels(), SHEET, SHEET), null);
}

function undo() {
  if (state.strokes.length > 0) setStrokes(state.strokes.slice(0, -1));
}

function setStrokes(strokes) {
  clearTimeout(state.waiting);
  state.strokes = strokes;
  showDrawing();
  readDrawing();
}

/* ---- Reading ---- */

/** Reads an image from now on, from its first row. */
function take(pixels, label) {
  pause();
  Object.assign(state, { pixels, label });
  state.readings = networks.map((network) => readImage(network, pixels));
  state.looks = lastBeliefs().map((belief) => looksLikeDigit(likeness, pixels, belief));
  showChosenSample();
  colourDigits();
  showRow(stillness.matches && !isBlank() ? ROWS : 0);
  if (state.row === 0 && !isBlank()) play();
}

function play() {
  if (state.row === ROWS) showRow(0);
  state.playing = setInterval(() => {
    showRow(state.row + 1);
    if (state.row === ROWS) pause();
  }, MILLISECONDS_A_ROW);
  showPlaying();
}

function pause() {
  clearInterval(state.playing);
  state.playing = null;
  showPlaying();
}

function togglePlaying() {
  if (state.playing === null) play();
  else pause();
}

function goTo(row) {
  pause();
  showRow(Math.min(Math.max(row, 0), ROWS));
}

function showPlaying() {
  const playing = state.playing !== null;
  element("transport").classList.toggle("is-playing", playing);
  element("play-word").textContent = playing ? "Pause" : "Play";
}

/** Shows everything as it is after so many rows. */
function showRow(row) {
  state.row = row;
  const words = `row ${row} of ${ROWS}`;
  element("row").value = row;
  element("row").setAttribute("aria-valuetext", words);
  element("row-words").textContent = words;
  paintImage(element("image"), state.pixels, row);
  const seen = `The image of 28 by 28 pixels, read down to ${words}`;
  element("image").setAttribute("aria-label", seen);
  element("scan").style.top = `calc(${Math.max(row - 1, 0)} * var(--cell))`;
  element("scan").hidden = row === 0;
  const done = row === ROWS || isBlank();
  element("progress").textContent = done ? "" : guess(row);
  element("verdict").textContent = done ? verdict() : "";
  panels.forEach((panel, at) => {
    const doubtful = row === ROWS && !isBlank() && !state.looks[at];
    showPanel(panel, state.readings[at], row, doubtful);
  });
  showMaps();
}

/* ---- What a network believes ---- */

function copyOf(template) {
  return element(template).content.firstElementChild.cloneNode(true);
}

function makePanel(network) {
  const panel = copyOf("panel-template");
  const part = (selector) => panel.querySelector(selector);
  part("h2").textContent = network.title;
  part(".how").textContent =
    network.loss === "every_row"
      ? "In training, all its answers counted."
      : "In training, only the last one counted.";
  const bars = [...Array(10).keys()].map((digit) => makeBar(part(".bars"), digit));
  const curves = bars.map(() => {
    const curve = copyOf("curve-template").querySelector(".curve");
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

/** Gives colours to the digits that any network ever believed in most. */
function colourDigits() {
  const moments = state.readings.flatMap((reading) => reading.slice(1));
  const most = [...Array(10).keys()].map((digit) =>
    Math.max(...moments.map(({ belief }) => belief[digit])),
  );
  const answers = lastBeliefs().map((belief) => ranked(belief)[0]);
  const order = [...new Set([...answers, ...ranked(most)])].slice(0, COLOURED);
  for (const { bars, curves } of panels) {
    for (const [kind, parts] of Object.entries({ bar: bars, curve: curves })) {
      parts.forEach((part, digit) => {
        const rank = order.indexOf(digit);
        part.setAttribute("class", rank < 0 ? kind : `${kind} rank-${rank}`);
      });
    }
    const behind = order.map((digit) => curves[digit]).reverse();
    curves[0].parentNode.append(...behind); // what is drawn last lies on top
  }
}

function showPanel({ part, bars, curves, title }, reading, row, doubtful) {
  const { belief } = reading[row];
  const [first, second, third] = ranked(belief);
  const after = doubtful ? "hardly a digit" : `since row ${sinceRow(reading, row)}`;
  part(".digit").textContent = row === 0 ? "?" : first;
  part(".digit").classList.toggle("doubtful", doubtful);
  part(".share").textContent =
    row === 0 ? "nothing read yet" : `${percent(belief[first])}\n${after}`;
  bars.forEach((bar, digit) => {
    bar.querySelector(".fill").style.transform = `scaleY(${belief[digit]})`;
    bar.classList.toggle("leads", row > 0 && digit === first);
  });
  const likeliest = [first, second, third].map((d) => `${d}, ${percent(belief[d])}`);
  const doubt = doubtful ? "; hardly a digit" : "";
  const words = `${title}, belief after row ${row}: ${likeliest.join("; ")}${doubt}`;
  part(".bars").setAttribute("aria-label", words);
  part(".curves").setAttribute("aria-label", `${words}. Curves of all rows so far.`);
  part(".now").setAttribute("transform", `translate(${curveX(row)} 0)`);
  showCurves(curves, reading, row);
}

function curveX(row) {
  return 38 + 8 * row;
}

function curveY(share) {
  return 122 - 112 * share;
}

function showCurves(curves, reading, row) {
  const taken = []; // heights at which there is a name already
  for (const digit of ranked(reading[row].belief)) {
    const shares = reading.slice(0, row + 1).map(({ belief }) => belief[digit]);
    const points = shares.map((share, at) => `${curveX(at)},${curveY(share)}`);
    const [line, name] = curves[digit].children;
    line.setAttribute("points", points.join(" "));
    const height = curveY(shares.at(-1));
    const free = taken.every((other) => Math.abs(other - height) > 11);
    const named = row > 0 && shares.at(-1) > 0.1 && free;
    if (named) taken.push(height);
    name.textContent = named ? digit : "";
    name.setAttribute("x", curveX(row) + 6);
    name.setAttribute("y", height + 4);
  }
}

/* ---- What is inside a network ---- */

/** How a network's units are shown: their order, and the range of their memory. */
function lookOf(network) {
  const moments = samples.flatMap(({ pixels }) => readImage(network, pixels).slice(1));
  const kept = Array.from({ length: network.units }, (_, unit) =>
    moments.reduce((sum, { forget }) => sum + forget[unit], 0),
  );
  const order = kept.map((_, unit) => unit).sort((a, b) => kept[a] - kept[b]);
  const sizes = moments.flatMap(({ cell }) => [...cell].map(Math.abs));
  return { order, limit: quantile(sizes, 0.995) };
}

const looks = []; // of each network, once it was looked into

function makeMap({ title, text, limit }) {
  const map = copyOf("map-template");
  map.querySelector("h3").textContent = title;
  map.querySelector("p").textContent = text;
  map.querySelector(".scale").classList.toggle("signed", limit !== undefined);
  element("maps").append(map);
  return map;
}

function showMaps() {
  const network = networks[state.inside];
  looks[state.inside] ??= lookOf(network);
  MAPS.forEach((kind, at) => showMap(maps[at], kind, network, looks[state.inside]));
}

function showMap(map, { part, title, ends, limit }, network, look) {
  const signed = limit !== undefined;
  const most = (signed ? limit : 1) ?? look.limit;
  const [positive, negative] = [colour("--series-0"), colour("--series-1")];
  const moments = state.readings[state.inside].slice(1, state.row + 1);
  const inOrder = (moment) => look.order.map((unit) => moment[part][unit]);
  const values = moments.flatMap(inOrder);
  const canvas = map.querySelector("canvas");
  paint(canvas, network.units, ROWS, values, (value) => [
    value < 0 ? negative : positive,
    Math.min(Math.abs(value) / most, 1),
  ]);
  const limits = [`−${most.toFixed(1)}`, `+${most.toFixed(1)}`];
  const [low, high] = ends ?? limits;
  map.querySelector(".low").textContent = low;
  map.querySelector(".high").textContent = high;
  const words = meanWords(moments.at(-1)?.[part], signed);
  map.querySelector(".mean").textContent = words;
  const after = `${network.units} units after row ${state.row}`;
  canvas.setAttribute("aria-label", `${title} of ${after}${words ? ": " : ""}${words}`);
}

function meanWords(values, signed) {
  if (values === undefined) return "";
  const mean = values.reduce((sum, value) => sum + Math.abs(value), 0) / values.length;
  return signed ? `mean size ${mean.toFixed(2)}` : `mean ${Math.round(100 * mean)} %`;
}

function makeChoice({ title }, at) {
  const label = copyOf("choice-template");
  label.querySelector("span").textContent = title;
  const input = label.querySelector("input");
  input.checked = at === state.inside;
  input.addEventListener("change", () => {
    state.inside = at;
    showMaps();
  });
  element("choice").append(label);
}

/* ---- Samples ---- */

function makeSample({ label, pixels, hard }) {
  const button = document.createElement("button");
  button.type = "button";
  button.title = hard ? `Hard: the writer meant ${one(label)}` : `Easy: ${one(label)}`;
  button.setAttribute("aria-label", button.title);
  button.append(document.createElement("canvas"));
  button.addEventListener("click", () => {
    clearTimeout(state.waiting);
    state.strokes = [];
    showDrawing();
    take(pixels, label);
  });
  element(hard ? "hard" : "easy").append(button);
  return button;
}

function showChosenSample() {
  samples.forEach(({ pixels }, at) => {
    thumbs[at].setAttribute("aria-pressed", String(pixels === state.pixels));
  });
}

function showThumbs() {
  samples.forEach(({ pixels }, at) => paintImage(thumbs[at].firstChild, pixels));
}

/* ---- Hands ---- */

function listenToHands() {
  const drawing = element("drawing");
  drawing.addEventListener("pointerdown", beginStroke);
  drawing.addEventListener("pointermove", continueStroke);
  drawing.addEventListener("lostpointercapture", endStroke); // lifted, or interrupted
  element("undo").addEventListener("click", undo);
  element("clear").addEventListener("click", () => setStrokes([]));
  element("restart").addEventListener("click", () => goTo(0));
  element("back").addEventListener("click", () => goTo(state.row - 1));
  element("play").addEventListener("click", togglePlaying);
  element("forward").addEventListener("click", () => goTo(state.row + 1));
  element("row").addEventListener("input", () => goTo(Number(element("row").value)));
  element("transport").addEventListener("keydown", listenToKey);
}

/** Arrows step rows from anywhere in the transport; the slider knows them itself. */
function listenToKey(event) {
  const steps = { ArrowLeft: -1, ArrowRight: 1 };
  const onSlider = event.target === element("row");
  if (event.key === " " && onSlider) togglePlaying();
  else if (event.key in steps && !onSlider) goTo(state.row + steps[event.key]);
  else return;
  event.preventDefault();
}

function repaint() {
  showDrawing();
  showThumbs();
  showRow(state.row);
}

/* ---- The beginning ---- */

const panels = networks.map(makePanel);
const maps = MAPS.map(makeMap);
const thumbs = samples.map(makeSample);
networks.forEach(makeChoice);
element("choice").hidden = networks.length < 2;
listenToHands();
showDrawing();
showThumbs();
darkness.addEventListener("change", repaint);
window.addEventListener("resize", showDrawing);
window.rnnmnist = {
  prepare: (levels, height, width) =>
    prepareDrawing(data.constants, levels, height, width),
  read(levels, network) {
    const pixels = Uint8Array.from(levels);
    const moments = readImage(networks[network], pixels).slice(1);
    return {
      logits: moments.map(({ logits }) => logits),
      belief: moments.map(({ belief }) => belief),
      looksLikeDigit: looksLikeDigit(likeness, pixels, moments.at(-1).belief),
    };
  },
};
const first = samples.find(({ label }) => label === 3) ?? samples[0];
take(first.pixels, first.label);
