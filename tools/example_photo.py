"""Makes docs/five.jpg, the README's example: a held-out five as a photo of paper.

    python tools/example_photo.py

Simulates blue ink on grainy paper in uneven light, slightly rotated and with camera
noise. The digit is an embedded image that the reference model was not trained on.
"""

from pathlib import Path

import numpy as np
from PIL import Image
from robustness import uneven_light, upsample
from scipy import ndimage

from rnnmnist.data import embedded

TARGET = Path(__file__).resolve().parent.parent / "docs" / "five.jpg"
DIGIT, INDEX = 5, 35  # the index among the validation images of the digit
HEIGHT, WIDTH = 360, 480  # pixels
BACKGROUND, FOREGROUND = (1.0, 0.97, 0.9), (0.16, 0.2, 0.42)  # reflectances, RGB
DEGREES = -6  # rotation of the paper


def photo(image: np.ndarray) -> np.ndarray:
    """Renders a digit, uint8 [28, 28], as a photo, uint8 [height, width, 3]."""
    generator = np.random.default_rng(DIGIT)
    # Smoother lines and sharper edges than 28 x 28 pixels can show.
    smooth = ndimage.gaussian_filter(upsample(image), 4)
    page = np.pad(smooth, ((30, HEIGHT - 310), (130, WIDTH - 410)))
    page = ndimage.rotate(page, DEGREES, reshape=False, order=1)
    mask = np.clip(4 * (page - 0.5) + 0.5, 0, 1)[..., None]
    light = uneven_light(np.zeros_like(page), generator)[..., None] / 255
    grain = ndimage.gaussian_filter(generator.normal(0, 0.06, page.shape), 1.5)
    levels = light * (mask * FOREGROUND + (1 - mask) * BACKGROUND)
    levels *= 1 + grain[..., None]
    levels += generator.normal(0, 0.008, levels.shape)
    return np.rint(255 * np.clip(levels, 0, 1)).astype(np.uint8)


def example_image() -> np.ndarray:
    """Returns the chosen five, uint8 [28, 28]."""
    images, labels = embedded.splits()["validation"]
    return images[labels == DIGIT][INDEX]


def main() -> None:
    """Writes the file."""
    Image.fromarray(photo(example_image())).save(TARGET, quality=60, optimize=True)
    print(f"{TARGET.name}: {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
