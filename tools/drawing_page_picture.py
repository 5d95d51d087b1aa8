"""Makes docs/drawing_page.png: a screenshot of the drawing page with a drawn digit.

    python tools/drawing_page_picture.py

Requires Playwright and Chromium, as tests/web/test_drawing_page.py does.
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
ROW = 19  # after which the predictions of the two networks differ
Points = list[tuple[float, float]]


def arc(
    x: float, y: float, width: float, height: float, begin: int, end: int
) -> Points:
    """Returns points of an ellipse between two angles, relative to the canvas."""
    angles = [math.radians(angle) for angle in range(begin, end, 8)]
    return [(x + width * math.cos(a), y + height * math.sin(a)) for a in angles]


THREE = arc(0.5, 0.32, 0.2, 0.17, 200, 455) + arc(0.5, 0.67, 0.23, 0.19, -80, 165)


def main() -> None:
    """Renders the page, draws a three on it and takes the screenshot."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page = Path(folder) / "page.html"
        argv = [sys.executable, "-m", "rnnmnist.page", f"--output={page}"]
        subprocess.run(argv, check=True, cwd=REPOSITORY)
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        tab = browser.new_page(
            viewport={"width": 1280, "height": 784},
            color_scheme="light",
            reduced_motion="reduce",
        )
        tab.goto(page.as_uri())
        box = tab.locator("#drawing").bounding_box()
        assert box is not None
        points = [
            (box["x"] + x * box["width"], box["y"] + y * box["height"])
            for x, y in THREE
        ]
        tab.mouse.move(*points[0])
        tab.mouse.down()
        for point in points[1:]:
            tab.mouse.move(*point, steps=3)
        tab.mouse.up()
        tab.mouse.move(5, 5)
        tab.wait_for_timeout(900)  # until the drawing is classified
        tab.evaluate(f"goTo({ROW})")
        tab.screenshot(path=PICTURE)
        browser.close()


if __name__ == "__main__":
    main()
