"""Makes docs/drawing_page.png: a digit drawn on the page, while it is read.

python tools/film_picture.py

Needs Playwright and Chromium, as the tests of the page do.
"""

import math
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

REPOSITORY = Path(__file__).resolve().parent.parent
PICTURE = REPOSITORY / "docs/drawing_page.png"
ROW = 19  # the row of the picture, where the two networks disagree
Points = list[tuple[float, float]]


def arc(x: float, y: float, wide: float, high: float, begin: int, end: int) -> Points:
    """Points of an ellipse, from one angle to another, in parts of the sheet."""
    angles = [math.radians(angle) for angle in range(begin, end, 8)]
    return [(x + wide * math.cos(a), y + high * math.sin(a)) for a in angles]


THREE = arc(0.5, 0.32, 0.2, 0.17, 200, 455) + arc(0.5, 0.67, 0.23, 0.19, -80, 165)


def main() -> None:
    """Makes the page, draws a three on it, and takes the picture."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page = Path(folder) / "film.html"
        words = [sys.executable, "-m", "rnnmnist.page", f"--output={page}"]
        subprocess.run(words, check=True, cwd=REPOSITORY)
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        tab = browser.new_page(
            viewport={"width": 1280, "height": 784},
            color_scheme="light",
            reduced_motion="reduce",
        )
        tab.goto(page.as_uri())
        sheet = tab.locator("#drawing").bounding_box()
        assert sheet is not None
        points = [
            (sheet["x"] + x * sheet["width"], sheet["y"] + y * sheet["height"])
            for x, y in THREE
        ]
        tab.mouse.move(*points[0])
        tab.mouse.down()
        for point in points[1:]:
            tab.mouse.move(*point, steps=3)
        tab.mouse.up()
        tab.mouse.move(5, 5)
        tab.wait_for_timeout(900)  # until it is read
        tab.evaluate(f"goTo({ROW})")
        tab.screenshot(path=PICTURE)
        browser.close()


if __name__ == "__main__":
    main()
