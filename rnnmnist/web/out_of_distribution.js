"use strict";

/* The out-of-distribution check of rnnmnist/inference/out_of_distribution.py.
 *
 * The blurred images of a digit lie near a PCA subspace: a mean and the principal
 * components. An image far from the subspace of its predicted digit is rejected.
 */

/**
 * Whether an image resembles the digit predicted for it.
 *
 * @param check from the page's data: the quantized subspaces and the thresholds.
 * @param pixels Uint8Array of 28 x 28 levels, row by row.
 * @param probabilities of a network after the last row.
 */
function isDigit(check, pixels, probabilities) {
  const probability = Math.max(...probabilities);
  return (
    pixels.some((level) => level > 0) &&
    probability >= check.minProbability &&
    subspaceDistance(check, pixels, probabilities.indexOf(probability)) <=
      check.maxDistance
  );
}

/** Computes the distance of an image from a digit's subspace. */
function subspaceDistance({ blur, means, components, scales }, pixels, digit) {
  const size = pixels.length;
  const mean = means.subarray(digit * size, (digit + 1) * size);
  const centred = blurred(pixels, blur).map((level, i) => level - mean[i] / 255);
  const dimensions = components.length / means.length;
  let square = centred.reduce((sum, value) => sum + value * value, 0);
  for (let k = digit * dimensions; k < (digit + 1) * dimensions; k += 1) {
    let projection = 0;
    for (let i = 0; i < size; i += 1) {
      projection += centred[i] * components[k * size + i];
    }
    square -= (projection * scales[k]) ** 2;
  }
  return Math.sqrt(Math.max(square, 0));
}

/** Applies a Gaussian filter with reflected borders; returns levels from 0 to 1. */
function blurred(pixels, deviation) {
  const image = makeImage(ROWS, COLUMNS);
  image.levels = Float32Array.from(pixels, (level) => level / 255);
  const radius = Math.trunc(4 * deviation + 0.5);
  const weights = Array.from({ length: 2 * radius + 1 }, (_, i) =>
    Math.exp(-0.5 * ((i - radius) / deviation) ** 2),
  );
  const columns = transposed(blurredRows(image, weights));
  return transposed(blurredRows(columns, weights)).levels;
}

function blurredRows(source, weights) {
  const { height, width, levels } = source;
  const target = makeImage(height, width);
  const sum = weights.reduce((total, weight) => total + weight, 0);
  const radius = (weights.length - 1) / 2;
  target.levels.forEach((_, i) => {
    const [start, column] = [i - (i % width), i % width];
    let level = 0;
    weights.forEach((weight, k) => {
      const x = column + k - radius;
      const reflected = x < 0 ? -x - 1 : Math.min(x, 2 * width - x - 1);
      level += weight * levels[start + reflected];
    });
    target.levels[i] = level / sum;
  });
  return target;
}
