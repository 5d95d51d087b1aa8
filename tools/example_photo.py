"""Makes docs/five.jpg, the README's example: a held-out five, as a photo of paper.

    python tools/example_photo.py

A pen's blue ink on paper with a grain, in light that falls off across it, a little
askew, by a camera that adds noise. Written, with tools/robustness.py's ways of drawing,
from one of the embedded images that the reference model was not trained on.
"""

from pathlib import Path

import numpy as np
from PIL import Image
from robustness import drawn, in_uneven_light
from scipy import ndimage

from rnnmnist.data import embedded

TARGET = Path(__file__).resolve().parent.parent / "docs" / "five.jpg"
DIGIT, PLACE = 5, 35  # which of the held-out images of that digit
HIGH, WIDE = 360, 480  # pixels
PAPER, INK = (1.0, 0.97, 0.9), (0.16, 0.2, 0.42)  # shares of the light
DEGREES = -6  # how far the sheet is turned


def photo(image: np.ndarray) -> np.ndarray:
    """A digit on paper, as a camera sees it.

    Args:
        image: uint8 [28, 28].

    Returns:
        uint8 [height, width, 3].
    """
    generator = np.random.default_rng(DIGIT)
    # A pen draws smoother lines than 28 pixels do, with sharper edges.
    smooth = ndimage.gaussian_filter(drawn(image), 4)
    page = np.pad(smooth, ((30, HIGH - 310), (130, WIDE - 410)))
    page = ndimage.rotate(page, DEGREES, reshape=False, order=1)
    ink = np.clip(4 * (page - 0.5) + 0.5, 0, 1)[..., None]
    light = in_uneven_light(np.zeros_like(page), generator)[..., None] / 255
    grain = ndimage.gaussian_filter(generator.normal(0, 0.06, page.shape), 1.5)
    levels = light * (ink * INK + (1 - ink) * PAPER) * (1 + grain[..., None])
    levels += generator.normal(0, 0.008, levels.shape)
    return np.rint(255 * np.clip(levels, 0, 1)).astype(np.uint8)


def written() -> np.ndarray:
    """The five that was chosen, uint8 [28, 28]."""
    images, labels = embedded.splits()["validation"]
    return images[labels == DIGIT][PLACE]


def main() -> None:
    """Writes the file."""
    Image.fromarray(photo(written())).save(TARGET, quality=60, optimize=True)
    print(f"{TARGET.name}: {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
