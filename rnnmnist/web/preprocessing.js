"use strict";

/* From a drawing to an image as MNIST's are: rnnmnist/handwriting.py, for a canvas.
 *
 * Ink is scaled to fit a box of 20 x 20 pixels, with strokes neither hair nor brush,
 * and centred in 28 x 28 by its mass. Only the search for the paper is left out: a
 * canvas is even, so that its paper is 0 everywhere.
 *
 * A picture is { height, width, levels }: levels from 0 to 1, row by row, float32.
 */

function picture(height, width) {
  return { height, width, levels: new Float32Array(height * width) };
}

function clipped(value, least, most) {
  return Math.min(Math.max(value, least), most);
}

/** Rounds as Python does: a half goes to the even neighbour. */
function roundHalfEven(value) {
  const below = Math.floor(value);
  if (value - below !== 0.5) return Math.round(value);
  return below % 2 === 0 ? below : below + 1;
}

/** The value below which a share of all lies, between two neighbours in proportion. */
function quantile(values, share) {
  const sorted = Float32Array.from(values).sort();
  const place = share * (sorted.length - 1);
  const below = Math.floor(place);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (place - below) * (sorted[above] - sorted[below]);
}

/**
 * Prepares a drawing.
 *
 * @param levels of ink, 0 to 255, row by row.
 * @returns Uint8Array of 28 x 28 levels; all 0 if there is no ink.
 */
function prepareDrawing(constants, levels, height, width) {
  const grey = picture(height, width);
  grey.levels = Float32Array.from(levels, (level) => level / 255);
  const box = inkBox(findInk(constants, grey));
  if (box === null) return new Uint8Array(constants.side * constants.side);
  return centred(constants, evenStrokes(constants, box));
}

/** Ink from 0 to 1, without what is fainter than any stroke, and without specks. */
function findInk(constants, grey) {
  const ink = picture(grey.height, grey.width);
  const strong = grey.levels.filter((level) => level > constants.leastContrast / 2);
  if (strong.length === 0) return ink;
  const most = quantile(strong, 0.9);
  if (most < constants.leastContrast) return ink;
  const [low, high] = [0.1 * most, 0.85 * most];
  ink.levels = grey.levels.map((level) => clipped((level - low) / (high - low), 0, 1));
  const digit = findDigit(ink);
  ink.levels = ink.levels.map((level, at) => level * digit[at]);
  return ink;
}

/** Where the digit is: without specks, and what comes in from the border. */
function findDigit(ink) {
  const { parts, count } = labelParts(ink);
  if (count < 2) return new Uint8Array(parts.length).fill(1);
  const mass = new Float64Array(count + 1); // of each part; part 0 is the paper
  parts.forEach((part, at) => {
    if (part > 0) mass[part] += ink.levels[at];
  });
  const border = partsAtBorder(ink, parts);
  const inside = mass.map((own, part) => (border.has(part) ? 0 : own));
  if (Math.max(...inside) > 0.1 * Math.max(...mass)) mass.set(inside);
  const least = 0.04 * Math.max(...mass);
  const keep = Uint8Array.from(parts, (part) => (mass[part] > least ? 1 : 0));
  return dilated(dilated(keep, ink), ink);
}

/** Numbers the connected parts of ink from 1; corners connect, too. */
function labelParts({ height, width, levels }) {
  const parts = new Int32Array(levels.length);
  let count = 0;
  for (let seed = 0; seed < levels.length; seed += 1) {
    if (levels[seed] <= 0.25 || parts[seed] > 0) continue;
    count += 1;
    parts[seed] = count;
    for (const open = [seed]; open.length > 0; ) {
      const at = open.pop();
      const [row, column] = [Math.floor(at / width), at % width];
      const [top, bottom] = [Math.max(row - 1, 0), Math.min(row + 1, height - 1)];
      const [left, right] = [Math.max(column - 1, 0), Math.min(column + 1, width - 1)];
      for (let y = top; y <= bottom; y += 1) {
        for (let x = left; x <= right; x += 1) {
          const next = y * width + x;
          if (levels[next] <= 0.25 || parts[next] > 0) continue;
          parts[next] = count;
          open.push(next);
        }
      }
    }
  }
  return { parts, count };
}

function partsAtBorder({ height, width }, parts) {
  const found = new Set();
  for (let x = 0; x < width; x += 1) {
    found.add(parts[x]).add(parts[(height - 1) * width + x]);
  }
  for (let y = 0; y < height; y += 1) {
    found.add(parts[y * width]).add(parts[(y + 1) * width - 1]);
  }
  return found;
}

/** A set of pixels and their neighbours above, below, left and right. */
function dilated(keep, { width }) {
  const wider = Uint8Array.from(keep);
  keep.forEach((kept, at) => {
    if (kept === 0) return;
    const column = at % width;
    if (column > 0) wider[at - 1] = 1;
    if (column < width - 1) wider[at + 1] = 1;
    if (at >= width) wider[at - width] = 1;
    if (at + width < wider.length) wider[at + width] = 1;
  });
  return wider;
}

/** The part of a picture that holds all its ink, which touches its sides; or null. */
function inkBox({ height, width, levels }) {
  let [top, bottom, left, right] = [height, -1, width, -1];
  levels.forEach((level, at) => {
    if (level <= 0.25) return;
    const [row, column] = [Math.floor(at / width), at % width];
    [top, bottom] = [Math.min(top, row), Math.max(bottom, row)];
    [left, right] = [Math.min(left, column), Math.max(right, column)];
  });
  if (bottom < 0) return null;
  const box = picture(bottom - top + 1, right - left + 1);
  for (let y = 0; y < box.height; y += 1) {
    const start = (top + y) * width + left;
    box.levels.set(levels.subarray(start, start + box.width), y * box.width);
  }
  return box;
}

/** Thickens hairlines and thins what was painted with a brush. */
function evenStrokes({ box: largest, fine, strokes }, box) {
  const scale = (largest * fine) / Math.max(box.height, box.width);
  const sides = [box.height, box.width].map((length) =>
    Math.max(1, roundHalfEven(length * scale)),
  );
  const drawing = framed(resized(box, ...sides), 2 * fine);
  const solid = Uint8Array.from(drawing.levels, (level) => (level > 0.5 ? 1 : 0));
  if (!solid.includes(1)) return drawing;
  const inside = distances(solid, drawing, 0);
  const width = strokeWidth(solid, inside) / fine;
  const wanted = clipped(width, strokes[0], strokes[1]);
  if (wanted === width) return drawing;
  const by = (fine * (wanted - width)) / 2; // on each side
  const ink =
    by > 0
      ? distances(solid, drawing, 1).map((outside) => by + 1 - outside)
      : inside.map((distance) => distance + by);
  drawing.levels = Float32Array.from(ink, (level) => clipped(level, 0, 1));
  return drawing;
}

/** A picture clipped to levels from 0 to 1, with blank paper around it. */
function framed({ height, width, levels }, edge) {
  const whole = picture(height + 2 * edge, width + 2 * edge);
  levels.forEach((level, at) => {
    const [row, column] = [Math.floor(at / width), at % width];
    whole.levels[(row + edge) * whole.width + column + edge] = clipped(level, 0, 1);
  });
  return whole;
}

/** How wide strokes are: four times the mean distance to their edge. */
function strokeWidth(solid, inside) {
  let [sum, count] = [0, 0];
  solid.forEach((is, at) => {
    sum += is * (inside[at] - 0.5);
    count += is;
  });
  return (4 * sum) / count;
}

/** How far each pixel is from the nearest one whose `solid` is `target`. */
function distances(solid, { height, width }, target) {
  const far = height * height + width * width; // farther than any
  const squares = Float64Array.from(solid, (is) => (is === target ? 0 : far));
  for (let x = 0; x < width; x += 1) spread(squares, x, width, height);
  for (let y = 0; y < height; y += 1) spread(squares, y * width, 1, width);
  return squares.map(Math.sqrt);
}

/**
 * Squared distances along one line, exactly: the lower envelope of parabolas.
 *
 * Felzenszwalb and Huttenlocher, "Distance Transforms of Sampled Functions", Theory of
 * Computing 8, 2012.
 */
function spread(squares, start, stride, count) {
  const own = new Float64Array(count);
  for (let at = 0; at < count; at += 1) own[at] = squares[start + at * stride];
  const roots = [0]; // of the parabolas that are lowest somewhere, from left to right
  const begins = [-Infinity]; // where each of them becomes the lowest
  const meet = (p, q) => (own[q] + q * q - own[p] - p * p) / (2 * (q - p));
  for (let at = 1; at < count; at += 1) {
    while (meet(roots.at(-1), at) <= begins.at(-1)) {
      roots.pop();
      begins.pop();
    }
    begins.push(meet(roots.at(-1), at));
    roots.push(at);
  }
  for (let at = 0, lowest = 0; at < count; at += 1) {
    while (lowest + 1 < roots.length && begins[lowest + 1] < at) lowest += 1;
    squares[start + at * stride] = (at - roots[lowest]) ** 2 + own[roots[lowest]];
  }
}

/** Scales ink into the box and centres it by its mass. */
function centred({ side, box: largest, centre }, strokes) {
  const image = new Uint8Array(side * side);
  const box = inkBox(strokes);
  if (box === null) return image;
  const scale = largest / Math.max(box.height, box.width);
  const [high, wide] = [box.height, box.width].map((length) =>
    Math.max(1, roundHalfEven(length * scale)),
  );
  const levels = resized(box, high, wide).levels.map((level) => clipped(level, 0, 1));
  let [mass, down, right] = [0, 0, 0];
  levels.forEach((level, at) => {
    mass += level;
    down += level * Math.floor(at / wide);
    right += level * (at % wide);
  });
  const top = clipped(roundHalfEven(centre - down / mass), 0, side - high);
  const left = clipped(roundHalfEven(centre - right / mass), 0, side - wide);
  levels.forEach((level, at) => {
    const [row, column] = [Math.floor(at / wide), at % wide];
    image[(top + row) * side + left + column] = roundHalfEven(255 * level);
  });
  return image;
}

/** A picture at another size, as Pillow makes it: along rows, then along columns. */
function resized(source, height, width) {
  const smaller = height < source.height || width < source.width;
  const filter = smaller ? BOX_FILTER : BICUBIC_FILTER;
  const rows = resizedRows(source, width, filter);
  return transposed(resizedRows(transposed(rows), height, filter));
}

const BOX_FILTER = { support: 0.5, weight: (x) => (x > -0.5 && x <= 0.5 ? 1 : 0) };

const BICUBIC_FILTER = {
  support: 2,
  weight(distance) {
    const x = Math.abs(distance);
    if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
  },
};

function resizedRows(source, width, filter) {
  const target = picture(source.height, width);
  for (let x = 0; x < width; x += 1) {
    const { first, weights } = contributions(x, source.width, width, filter);
    for (let y = 0; y < source.height; y += 1) {
      const start = y * source.width + first;
      let sum = 0;
      for (let at = 0; at < weights.length; at += 1) {
        sum += weights[at] * source.levels[start + at];
      }
      target.levels[y * width + x] = sum;
    }
  }
  return target;
}

/** Which pixels of a row make pixel `x` of the new one, and by what weights. */
function contributions(x, before, after, filter) {
  const scale = before / after;
  const wide = Math.max(1, scale); // of the filter, in pixels of the old row
  const middle = (x + 0.5) * scale;
  const reach = filter.support * wide;
  const first = Math.max(0, Math.trunc(middle - reach + 0.5));
  const end = Math.min(before, Math.trunc(middle + reach + 0.5));
  const weights = Array.from({ length: end - first }, (_, at) =>
    filter.weight((first + at - middle + 0.5) / wide),
  );
  const sum = weights.reduce((total, weight) => total + weight, 0);
  return { first, weights: weights.map((weight) => weight / sum) };
}

function transposed({ height, width, levels }) {
  const turned = picture(width, height);
  levels.forEach((level, at) => {
    turned.levels[(at % width) * height + Math.floor(at / width)] = level;
  });
  return turned;
}
