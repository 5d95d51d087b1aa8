"use strict";

/* Whether an image looks like the digit that it was taken for: rnnmnist/likeness.py.
 *
 * The images of a digit, blurred, lie near a flat: its mean, and some directions in
 * which they vary. What lies far from it is no such digit, however sure a network is.
 */

/**
 * Whether an image looks like a digit at all, the one that is believed in.
 *
 * @param likeness from the page's data: the flats in bytes, and where the limits are.
 * @param pixels Uint8Array of 28 x 28 levels of ink, row by row.
 * @param belief of a network after the last row.
 */
function looksLikeDigit(likeness, pixels, belief) {
  const probability = Math.max(...belief);
  return (
    pixels.some((level) => level > 0) &&
    probability >= likeness.sure &&
    farFrom(likeness, pixels, belief.indexOf(probability)) <= likeness.farthest
  );
}

/** How far an image is from a digit's flat. */
function farFrom({ blur, means, axes, scales }, pixels, digit) {
  const size = pixels.length;
  const mean = means.subarray(digit * size, (digit + 1) * size);
  const apart = blurred(pixels, blur).map((level, at) => level - mean[at] / 255);
  const dimensions = axes.length / means.length;
  let square = squaredLength(apart);
  for (let axis = digit * dimensions; axis < (digit + 1) * dimensions; axis += 1) {
    let along = 0;
    for (let at = 0; at < size; at += 1) along += apart[at] * axes[axis * size + at];
    square -= (along * scales[axis]) ** 2;
  }
  return Math.sqrt(Math.max(square, 0));
}

function squaredLength(vector) {
  return vector.reduce((sum, value) => sum + value * value, 0);
}

/** Levels from 0 to 1 under a Gaussian of `deviation` pixels, mirrored at the sides. */
function blurred(pixels, deviation) {
  const image = picture(ROWS, COLUMNS);
  image.levels = Float32Array.from(pixels, (level) => level / 255);
  const reach = Math.trunc(4 * deviation + 0.5);
  const weights = Array.from({ length: 2 * reach + 1 }, (_, at) =>
    Math.exp(-0.5 * ((at - reach) / deviation) ** 2),
  );
  const columns = transposed(blurredRows(image, weights));
  return transposed(blurredRows(columns, weights)).levels;
}

function blurredRows(source, weights) {
  const { height, width, levels } = source;
  const target = picture(height, width);
  const sum = weights.reduce((total, weight) => total + weight, 0);
  const reach = (weights.length - 1) / 2;
  target.levels.forEach((_, at) => {
    const [start, column] = [at - (at % width), at % width];
    let level = 0;
    weights.forEach((weight, place) => {
      const from = column + place - reach;
      const mirrored = from < 0 ? -from - 1 : Math.min(from, 2 * width - from - 1);
      level += weight * levels[start + mirrored];
    });
    target.levels[at] = level / sum;
  });
  return target;
}
