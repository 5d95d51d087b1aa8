"""Generates images that are not digits, in the form of MNIST's images.

The out-of-distribution check is trained on them. They are strokes, shapes, textures,
both of them together, and digits that are cut or turned. None is from the sets that the
check is tested on: letters of fonts, garments and photographs.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from rnnmnist.inference.preprocessing import SIDE, centre, preprocess

SCALE = 4  # pixels of a drawing to one of MNIST's
TURNED = {  # digits that are no longer digits when transformed
    "rotated": (2, 3, 4, 5, 6, 7, 9),
    "mirrored": (3, 4, 6, 7, 9),
    "upside down": (3, 4, 7),
}
Digits = tuple[np.ndarray, np.ndarray]  # uint8 [n, 28, 28], and labels [n]


def generate(count: int, digits: Digits, seed: int) -> np.ndarray:
    """Generates outliers of all kinds, equally many of each: uint8 [count, 28, 28].

    Some of the digits are cut or turned for it.
    """
    generator = np.random.default_rng(seed)
    images = list[np.ndarray]()
    while len(images) < count:
        kind = KINDS[len(images) % len(KINDS)]
        image = centre(kind(digits, generator).astype(np.float32))
        if image.any():
            images.append(image)
    return np.stack(images)


def glyph(_digits: Digits, generator: np.random.Generator) -> np.ndarray:
    """Draws lines and arcs of ellipses between the points of a lattice."""
    lattice = np.stack(np.meshgrid([0.1, 0.5, 0.9], [0.05, 0.35, 0.65, 0.95]), -1)
    points = lattice.reshape(-1, 2) + generator.normal(0, 0.03, (12, 2))
    strokes, end = [], generator.integers(12)
    for _ in range(generator.integers(2, 6)):
        start = end if generator.random() < 0.6 else generator.integers(12)
        end = generator.integers(12)
        along = np.linspace(0, 1, 24)[:, None]
        stroke = (1 - along) * points[start] + along * points[end]
        if generator.random() < 0.4:  # half an ellipse over the line, or a part of it
            across = (points[end] - points[start])[::-1] * [-1, 1]
            height = generator.uniform(-1, 1)
            angle = np.pi * along * generator.uniform(0.6, 1)
            middle = (points[start] + points[end]) / 2
            stroke = middle + (points[start] - middle) * np.cos(angle)
            stroke = stroke + height * across * np.sin(angle)
        strokes.append(np.clip(stroke, 0, 1))
    return draw(strokes, generator)


def arc(_digits: Digits, generator: np.random.Generator) -> np.ndarray:
    """Draws an open part of an ellipse, often with one or two lines."""
    radii, turn = generator.uniform([0.2, 0.3], 0.5), generator.uniform(0, 2 * np.pi)
    angle = turn + np.linspace(0, generator.uniform(0.8, 1.75) * np.pi, 40)
    strokes = [0.5 + radii * np.stack([np.cos(angle), np.sin(angle)], -1)]
    for _ in range(generator.integers(0, 3)):
        ends = generator.uniform(0, 1, (2, 2))
        column = generator.integers(2)
        if generator.random() < 0.7:  # upright or level
            ends[:, column] = ends[0, column]
        strokes.append(ends)
    return draw(strokes, generator)


def scribble(_digits: Digits, generator: np.random.Generator) -> np.ndarray:
    """Draws one to three smooth random curves."""
    strokes = []
    for _ in range(generator.integers(1, 4)):
        speed = ndimage.gaussian_filter1d(
            generator.normal(0, 1, (60, 2)), generator.uniform(3, 12), axis=0
        )
        path = speed.cumsum(0)
        extent = np.ptp(path, axis=0).max()
        strokes.append((path - path.min(0)) / extent * generator.uniform(0.4, 1))
    return draw(strokes, generator)


def draw(strokes: list[np.ndarray], generator: np.random.Generator) -> np.ndarray:
    """Draws strokes, each [points, 2] from 0 to 1, with one width."""
    side, width = SCALE * SIDE, int(SCALE * generator.uniform(2, 4))
    image = Image.new("L", (side, side))
    canvas = ImageDraw.Draw(image)
    for stroke in strokes:
        xy = [tuple(point) for point in width + stroke * (side - 2 * width)]
        canvas.line(xy, 255, width, "curve")
    return np.asarray(image) / 255


def shape(_digits: Digits, generator: np.random.Generator) -> np.ndarray:
    """Draws one to four filled polygons or rectangles, and shades them."""
    side = SCALE * SIDE
    image = Image.new("L", (side, side))
    canvas = ImageDraw.Draw(image)
    for _ in range(generator.integers(1, 5)):
        level = int(generator.integers(60, 256)) if generator.random() < 0.9 else 0
        if generator.random() < 0.5:
            corners = np.sort(generator.uniform(0, side, (2, 2)), axis=0)
            canvas.rectangle([tuple(corner) for corner in corners], level)
        else:
            count = generator.integers(3, 9)
            angles = np.sort(generator.uniform(0, 2 * np.pi, count))
            radii = side * generator.uniform(0.2, 0.5, count)
            middle = side * generator.uniform(0.3, 0.7, 2)
            x, y = radii * np.cos(angles), radii * np.sin(angles)
            canvas.polygon(list(zip(x + middle[0], y + middle[1], strict=True)), level)
    levels = ndimage.gaussian_filter(np.asarray(image) / 255, generator.uniform(0, 3))
    if generator.random() < 0.3:  # as preprocessing breaks large areas into parts
        return levels * (waves(side, generator) > generator.uniform(0.2, 0.7))
    return levels * (1 - generator.uniform(0, 0.8) * waves(side, generator))


def texture(_digits: Digits, generator: np.random.Generator) -> np.ndarray:
    """Draws smooth noise above a threshold."""
    noise = waves(SIDE, generator)
    low = generator.uniform(0, 0.7)
    return np.clip((noise - low) / generator.uniform(0.05, 1 - low), 0, 1)


def scene(digits: Digits, generator: np.random.Generator) -> np.ndarray:
    """Draws shaded shapes before a texture, and preprocesses them as a photograph."""
    side = SCALE * SIDE
    background = 0.7 * waves(side, generator) + 0.3 * waves(side, generator)
    foreground = shape(digits, generator)
    weight = generator.uniform(0, 1)
    return preprocess(weight * background + (1 - weight) * foreground).image / 255


def waves(side: int, generator: np.random.Generator) -> np.ndarray:
    """Draws smooth noise from 0 to 1, [side, side]."""
    scale = side * generator.uniform(0.01, 0.2, 2)
    noise = ndimage.gaussian_filter(generator.normal(0, 1, (side, side)), scale)
    return (noise - noise.min()) / np.ptp(noise)


def spliced(digits: Digits, generator: np.random.Generator) -> np.ndarray:
    """Joins parts of two digits, or shuffles the quarters of one."""
    images, _ = digits
    first, second = images[generator.integers(len(images), size=2)] / 255
    upper, lower = np.split(first, 2)
    if generator.random() < 0.5:
        quarters = [*np.split(upper, 2, axis=1), *np.split(lower, 2, axis=1)]
        a, b, c, d = (quarters[k] for k in generator.permutation(4))
        return np.block([[a, b], [c, d]])
    if generator.random() < 0.5:
        return np.concatenate([upper, second[: SIDE // 2]])
    return np.concatenate([first[:, 4:24], second[:, 4:24]], axis=1)


def turned(digits: Digits, generator: np.random.Generator) -> np.ndarray:
    """Rotates or mirrors a digit that is no longer a digit afterwards."""
    images, labels = digits
    change = str(generator.choice(list(TURNED)))
    candidates = np.flatnonzero(np.isin(labels, TURNED[change]))
    image = images[generator.choice(candidates)] / 255
    if change == "rotated":
        return np.rot90(image, generator.choice([1, 3]))
    return image[:, ::-1] if change == "mirrored" else image[::-1, ::-1]


Kind = Callable[[Digits, np.random.Generator], np.ndarray]
KINDS: list[Kind] = [glyph, arc, scribble, shape, texture, scene, spliced, turned]
