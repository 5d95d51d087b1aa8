"use strict";

/* Converts a drawing to MNIST's format: an image of 28 x 28 pixels.
 *
 * A drawing is a list of strokes, and a stroke is a list of points [x, y] from 0 to 1.
 * Strokes are scaled to MNIST's box and then drawn with a constant width. Images need
 * more preprocessing (rnnmnist/inference/preprocessing.py), because their strokes
 * already have a width.
 */

const MIN_EXTENT = 0.08; // smaller drawings are scaled as if they had this extent
// Ink is the sum of the pixel values from 0 to 1. It is 23 to 241 for the 5,000 MNIST
// images bundled with the package.
const INK_RANGE = [20, 250];
const MIN_PROBABILITY = 0.5;

/** Draws strokes as smooth curves, in the units of the context's transform. */
function drawStrokes(context, strokes, width) {
  context.lineWidth = width;
  context.lineCap = "round";
  context.lineJoin = "round";
  for (const points of strokes) {
    context.beginPath();
    context.moveTo(...points[0]);
    for (let i = 1; i < points.length - 1; i += 1) {
      const [[x, y], [nextX, nextY]] = [points[i], points[i + 1]];
      context.quadraticCurveTo(x, y, (x + nextX) / 2, (y + nextY) / 2);
    }
    context.lineTo(...points.at(-1)); // a tap draws a dot
    context.stroke();
  }
}

/**
 * Rasterizes a drawing.
 *
 * @param format MNIST's format, from the page's data, in pixels: `side` of the image,
 *   `box` of the digit, `centre` of mass, and `strokeWidth`.
 * @returns Uint8Array of 28 x 28 pixels in row-major order; all 0 for an empty drawing.
 */
function rasterize(strokes, { side, box, centre, strokeWidth }) {
  if (strokes.length === 0) return new Uint8Array(side * side);
  const [mins, maxs] = [Math.min, Math.max].map((extreme) =>
    [0, 1].map((axis) => extreme(...strokes.flat().map((point) => point[axis]))),
  );
  const extents = maxs.map((max, axis) => max - mins[axis]);
  const scale = (box - strokeWidth) / Math.max(...extents, MIN_EXTENT);
  const margins = extents.map((extent) => (side - scale * extent) / 2);

  function rasterizeWithMargins([left, top]) {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [side, side];
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.translate(left - scale * mins[0], top - scale * mins[1]);
    context.scale(scale, scale);
    drawStrokes(context, strokes, strokeWidth / scale);
    const { data: channels } = context.getImageData(0, 0, side, side);
    return Uint8Array.from(channels.filter((_, i) => i % 4 === 3)); // the alpha channel
  }

  const means = centreOfMass(rasterizeWithMargins(margins), side);
  const centred = margins.map((margin, axis) => {
    const length = scale * extents[axis] + strokeWidth;
    const position = margin + Math.round(centre - means[axis]);
    return clip(position, strokeWidth / 2, side - length + strokeWidth / 2);
  });
  return rasterizeWithMargins(centred);
}

/**
 * Returns true if an image is probably not a digit: the image has too little or too much
 * ink, or no network assigns a high probability to a digit.
 *
 * @param pixels Uint8Array of grey levels from 0 to 255.
 * @param probability the highest probability over all networks and digits.
 */
function isScribble(pixels, probability) {
  const ink = pixels.reduce((sum, level) => sum + level, 0) / 255;
  const [minInk, maxInk] = INK_RANGE;
  return ink < minInk || ink > maxInk || probability < MIN_PROBABILITY;
}

/** Returns the centre of mass [x, y] of an image, in pixels. */
function centreOfMass(levels, side) {
  const sums = [0, 0, 0];
  levels.forEach((level, i) => {
    sums[0] += level * (i % side);
    sums[1] += level * Math.floor(i / side);
    sums[2] += level;
  });
  return [sums[0] / sums[2], sums[1] / sums[2]];
}

function clip(value, min, max) {
  return Math.min(Math.max(value, min), max);
}
