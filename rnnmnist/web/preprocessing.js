"use strict";

/* Preprocesses a drawing as rnnmnist/inference/preprocessing.py preprocesses images.
 *
 * The digit is scaled to fit a box of 20 x 20 pixels, its stroke width is normalized,
 * and it is centred in 28 x 28 pixels by its centre of mass. The background of a canvas
 * is uniformly 0, so it is not estimated.
 *
 * An image is { height, width, levels }: float32 levels from 0 to 1, row by row.
 */

function makeImage(height, width) {
  return { height, width, levels: new Float32Array(height * width) };
}

function clip(value, min, max) {
  return Math.min(Math.max(value, min), max);
}

/** Rounds half to even, as Python does. */
function roundHalfEven(value) {
  const below = Math.floor(value);
  if (value - below !== 0.5) return Math.round(value);
  return below % 2 === 0 ? below : below + 1;
}

/** Computes a quantile with linear interpolation. */
function quantile(values, q) {
  const sorted = Float32Array.from(values).sort();
  const rank = q * (sorted.length - 1);
  const below = Math.floor(rank);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (rank - below) * (sorted[above] - sorted[below]);
}

/**
 * Preprocesses a drawing.
 *
 * @param constants of the Python module.
 * @param levels of the foreground, 0 to 255, row by row.
 * @returns Uint8Array of 28 x 28 levels; all 0 for a blank drawing.
 */
function preprocess(constants, levels, height, width) {
  const image = makeImage(height, width);
  image.levels = Float32Array.from(levels, (level) => level / 255);
  const box = cropped(constants, extractForeground(constants, image));
  if (box === null) return new Uint8Array(constants.side * constants.side);
  return centred(constants, normalizeStrokes(constants, box));
}

/** Normalizes the contrast to levels from 0 to 1, and removes specks. */
function extractForeground(constants, image) {
  const foreground = makeImage(image.height, image.width);
  const strong = image.levels.filter((level) => level > constants.minContrast / 2);
  if (strong.length === 0) return foreground;
  const top = quantile(strong, 0.9);
  if (top < constants.minContrast) return foreground;
  const [low, high] = [0.1 * top, 0.85 * top];
  foreground.levels = image.levels.map((level) =>
    clip((level - low) / (high - low), 0, 1),
  );
  const mask = digitMask(constants, foreground);
  foreground.levels = foreground.levels.map((level, i) => level * mask[i]);
  return foreground;
}

/** Selects the digit: no specks, and no components that touch the border. */
function digitMask({ minForeground }, foreground) {
  const { components, count } = labelComponents(foreground, minForeground);
  if (count < 2) return new Uint8Array(components.length).fill(1);
  const mass = new Float64Array(count + 1); // component 0 is the background
  components.forEach((component, i) => {
    if (component > 0) mass[component] += foreground.levels[i];
  });
  const border = borderComponents(foreground, components);
  const inside = mass.map((own, component) => (border.has(component) ? 0 : own));
  if (Math.max(...inside) > 0.1 * Math.max(...mass)) mass.set(inside);
  const minMass = 0.04 * Math.max(...mass);
  const mask = Uint8Array.from(components, (label) => Number(mass[label] > minMass));
  return dilated(dilated(mask, foreground), foreground);
}

/** Labels the connected components from 1; diagonal neighbours are connected. */
function labelComponents({ height, width, levels }, threshold) {
  const components = new Int32Array(levels.length);
  let count = 0;
  for (let seed = 0; seed < levels.length; seed += 1) {
    if (levels[seed] <= threshold || components[seed] > 0) continue;
    count += 1;
    components[seed] = count;
    for (const open = [seed]; open.length > 0; ) {
      const i = open.pop();
      const [row, column] = [Math.floor(i / width), i % width];
      const [top, bottom] = [Math.max(row - 1, 0), Math.min(row + 1, height - 1)];
      const [left, right] = [Math.max(column - 1, 0), Math.min(column + 1, width - 1)];
      for (let y = top; y <= bottom; y += 1) {
        for (let x = left; x <= right; x += 1) {
          const next = y * width + x;
          if (levels[next] <= threshold || components[next] > 0) continue;
          components[next] = count;
          open.push(next);
        }
      }
    }
  }
  return { components, count };
}

function borderComponents({ height, width }, components) {
  const found = new Set();
  for (let x = 0; x < width; x += 1) {
    found.add(components[x]).add(components[(height - 1) * width + x]);
  }
  for (let y = 0; y < height; y += 1) {
    found.add(components[y * width]).add(components[(y + 1) * width - 1]);
  }
  return found;
}

/** Dilates a mask by the neighbours above, below, left and right. */
function dilated(mask, { width }) {
  const wider = Uint8Array.from(mask);
  mask.forEach((selected, i) => {
    if (selected === 0) return;
    const column = i % width;
    if (column > 0) wider[i - 1] = 1;
    if (column < width - 1) wider[i + 1] = 1;
    if (i >= width) wider[i - width] = 1;
    if (i + width < wider.length) wider[i + width] = 1;
  });
  return wider;
}

/** Crops to the bounding box of the foreground; null for a blank image. */
function cropped({ minForeground }, { height, width, levels }) {
  let [top, bottom, left, right] = [height, -1, width, -1];
  levels.forEach((level, i) => {
    if (level <= minForeground) return;
    const [row, column] = [Math.floor(i / width), i % width];
    [top, bottom] = [Math.min(top, row), Math.max(bottom, row)];
    [left, right] = [Math.min(left, column), Math.max(right, column)];
  });
  if (bottom < 0) return null;
  const box = makeImage(bottom - top + 1, right - left + 1);
  for (let y = 0; y < box.height; y += 1) {
    const start = (top + y) * width + left;
    box.levels.set(levels.subarray(start, start + box.width), y * box.width);
  }
  return box;
}

/** Thickens thin strokes and thins thick ones into the target range. */
function normalizeStrokes({ box: side, oversampling, strokeWidths }, box) {
  const image = padded(scaled(box, side * oversampling), 2 * oversampling);
  const mask = Uint8Array.from(image.levels, (level) => Number(level > 0.5));
  if (!mask.includes(1)) return image;
  const inside = distances(mask, image, 0);
  const width = strokeWidth(mask, inside) / oversampling;
  const target = clip(width, ...strokeWidths);
  if (target === width) return image;
  const growth = (oversampling * (target - width)) / 2; // on each side
  const levels =
    growth > 0
      ? distances(mask, image, 1).map((outside) => growth + 1 - outside)
      : inside.map((distance) => distance + growth);
  image.levels = Float32Array.from(levels, (level) => clip(level, 0, 1));
  return image;
}

/** Resizes an image so that its longest side has `longest` pixels. */
function scaled(image, longest) {
  const factor = longest / Math.max(image.height, image.width);
  const sides = [image.height, image.width].map((side) =>
    Math.max(1, roundHalfEven(side * factor)),
  );
  const target = resized(image, ...sides);
  target.levels = target.levels.map((level) => clip(level, 0, 1));
  return target;
}

/** Adds a border of zeros. */
function padded({ height, width, levels }, border) {
  const target = makeImage(height + 2 * border, width + 2 * border);
  for (let y = 0; y < height; y += 1) {
    const row = levels.subarray(y * width, (y + 1) * width);
    target.levels.set(row, (y + border) * target.width + border);
  }
  return target;
}

/** Computes the mean stroke width: four times the mean distance to the edge. */
function strokeWidth(mask, inside) {
  let [sum, count] = [0, 0];
  mask.forEach((selected, i) => {
    sum += selected * (inside[i] - 0.5);
    count += selected;
  });
  return (4 * sum) / count;
}

/** Computes each pixel's distance to the nearest one whose mask is `target`. */
function distances(mask, { height, width }, target) {
  const infinity = height * height + width * width;
  const squares = Float64Array.from(mask, (value) => (value === target ? 0 : infinity));
  for (let x = 0; x < width; x += 1) transformLine(squares, x, width, height);
  for (let y = 0; y < height; y += 1) transformLine(squares, y * width, 1, width);
  return squares.map(Math.sqrt);
}

/**
 * Transforms squared distances along one line: the lower envelope of parabolas.
 *
 * Felzenszwalb and Huttenlocher, "Distance Transforms of Sampled Functions", Theory of
 * Computing 8, 2012.
 */
function transformLine(squares, start, stride, count) {
  const values = new Float64Array(count);
  for (let i = 0; i < count; i += 1) values[i] = squares[start + i * stride];
  const vertices = [0]; // of the parabolas in the envelope, from left to right
  const starts = [-Infinity]; // from where each parabola is the lowest
  const intersection = (p, q) =>
    (values[q] + q * q - values[p] - p * p) / (2 * (q - p));
  for (let i = 1; i < count; i += 1) {
    while (intersection(vertices.at(-1), i) <= starts.at(-1)) {
      vertices.pop();
      starts.pop();
    }
    starts.push(intersection(vertices.at(-1), i));
    vertices.push(i);
  }
  for (let i = 0, lowest = 0; i < count; i += 1) {
    while (lowest + 1 < vertices.length && starts[lowest + 1] < i) lowest += 1;
    const vertex = vertices[lowest];
    squares[start + i * stride] = (i - vertex) ** 2 + values[vertex];
  }
}

/** Scales strokes into the box and centres them by their centre of mass. */
function centred(constants, strokes) {
  const { side, centre } = constants;
  const image = new Uint8Array(side * side);
  const box = cropped(constants, strokes);
  if (box === null) return image;
  const { height, width, levels } = scaled(box, constants.box);
  let [mass, down, right] = [0, 0, 0];
  levels.forEach((level, i) => {
    mass += level;
    down += level * Math.floor(i / width);
    right += level * (i % width);
  });
  const top = clip(roundHalfEven(centre - down / mass), 0, side - height);
  const left = clip(roundHalfEven(centre - right / mass), 0, side - width);
  levels.forEach((level, i) => {
    const [row, column] = [Math.floor(i / width), i % width];
    image[(top + row) * side + left + column] = roundHalfEven(255 * level);
  });
  return image;
}

/** Resizes an image as Pillow does: box filter if smaller, else bicubic. */
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
  const target = makeImage(source.height, width);
  for (let x = 0; x < width; x += 1) {
    const { first, weights } = contributions(x, source.width, width, filter);
    for (let y = 0; y < source.height; y += 1) {
      const start = y * source.width + first;
      let sum = 0;
      for (let i = 0; i < weights.length; i += 1) {
        sum += weights[i] * source.levels[start + i];
      }
      target.levels[y * width + x] = sum;
    }
  }
  return target;
}

/** Returns the source pixels that contribute to pixel `x`, and their weights. */
function contributions(x, before, after, filter) {
  const scale = before / after;
  const filterScale = Math.max(1, scale); // in source pixels
  const middle = (x + 0.5) * scale;
  const radius = filter.support * filterScale;
  const first = Math.max(0, Math.trunc(middle - radius + 0.5));
  const end = Math.min(before, Math.trunc(middle + radius + 0.5));
  const weights = Array.from({ length: end - first }, (_, i) =>
    filter.weight((first + i - middle + 0.5) / filterScale),
  );
  const sum = weights.reduce((total, weight) => total + weight, 0);
  return { first, weights: weights.map((weight) => weight / sum) };
}

function transposed({ height, width, levels }) {
  const target = makeImage(width, height);
  levels.forEach((level, i) => {
    target.levels[(i % width) * height + Math.floor(i / width)] = level;
  });
  return target;
}
