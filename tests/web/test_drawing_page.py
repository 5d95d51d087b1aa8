"""The drawing page: its content, and its behaviour in a browser."""

import base64
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import sync_playwright
from support import REPOSITORY, Once, called

from rnnmnist.config.files import REFERENCE_WORKDIRS
from rnnmnist.data import image_datasets
from rnnmnist.data.examples import Inputs
from rnnmnist.errors import UserError
from rnnmnist.evaluation.network import Network
from rnnmnist.inference.preprocessing import preprocess
from rnnmnist.model import load
from rnnmnist.runs.records import Record
from rnnmnist.web import drawing_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
Open = Callable[..., Any]
LARGE = {"width": 1280, "height": 844}
Stroke = list[tuple[float, float]]  # the points of a pen's path, in tenths
CROSS: list[Stroke] = [[(2, 2), (8, 8)], [(8, 2), (2, 8)]]
DIGITS: dict[int, list[Stroke]] = {
    0: [[(5, 1), (2, 3), (2, 7), (5, 9), (8, 7), (8, 3), (5, 1)]],
    1: [[(5, 1), (5, 9)]],
    2: [[(2, 3), (4, 1), (7, 2), (7, 4), (2, 9), (8, 9)]],
    4: [[(3, 1), (2, 6), (8, 6)], [(7, 2), (7, 9)]],
    7: [[(2, 1), (8, 1), (4, 9)]],
}


@pytest.fixture(scope="module")
def page(once: Once) -> Path:
    """The page of the two shipped models."""

    def write(folder: Path) -> None:
        folder.mkdir()
        output = folder / "the page.html"
        finished = called("page", f"--output={output}")
        assert (finished.returncode, finished.stderr) == (0, "")
        assert finished.stdout.startswith(f"{output} (")

    return once("page", write) / "the page.html"


def test_the_page_is_self_contained(page: Path) -> None:
    text = page.read_text()
    assert page.stat().st_size <= 1_500_000
    for word in ("http:", "https:", "fetch(", "XMLHttpRequest", "import(", "url("):
        assert word not in text
    assert not re.search(r"<[^>]* (src|on\w+)=", text)
    assert re.findall(r'href="(.*?)"', text) == ["data:,"]
    assert text.count("default-src 'none'") == 1


def test_the_page_accepts_only_a_single_lstm() -> None:
    run = Network(Record(REPOSITORY / REFERENCE_WORKDIRS[0]), "best")
    config = run.config
    for name, value in (
        ("model.cell", "gru"),
        ("model.num_layers", 2),
        ("num_seeds", 3),
        ("model.window", 4),
    ):
        run.config = config.replace({name: value})
        with pytest.raises(UserError, match=f"{name}={value}"):
            drawing_page.render([run])


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"]
        )
        yield started
        started.close()


@pytest.fixture
def opened(browser: Any, page: Path) -> Iterator[Open]:
    """Opens the page, and checks at the end that it logged and requested nothing."""
    contexts: list[Any] = []
    faults: list[str] = []
    requests: list[str] = []

    def open_page(**options: Any) -> Any:
        defaults = {"reduced_motion": "reduce", "viewport": LARGE}
        contexts.append(browser.new_context(**defaults | options))
        tab = contexts[-1].new_page()
        tab.on("console", lambda message: faults.append(message.text))
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.on("request", lambda sent: requests.append(sent.url))
        tab.goto(page.as_uri(), wait_until="load")
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []
    assert set(requests) <= {page.as_uri(), "data:,"}


def wait_for_result(tab: Any, start: str = "Prediction:|The predictions|This") -> None:
    """Waits until all rows are read and the summary starts with one of the texts."""
    tab.locator("#result", has_text=re.compile(f"^({start})")).wait_for()


def draw(tab: Any, *strokes: Stroke) -> None:
    """Draws with the mouse."""
    box = tab.locator("#drawing").bounding_box()
    for stroke in strokes:
        for index, (x, y) in enumerate(np.array(stroke) / 10):
            tab.mouse.move(
                box["x"] + x * box["width"], box["y"] + y * box["height"], steps=8
            )
            if index == 0:
                tab.mouse.down()
        tab.mouse.up()


def results_of(tab: Any, function: str, images: np.ndarray, *more: Any) -> np.ndarray:
    """Calls a function of the page for each image, uint8 [n, 28, 28]."""
    program = (
        "([text, more]) => JSON.stringify("
        f"JSON.parse(text).map((levels) => {function}(levels, ...more)))"
    )
    text = json.dumps(images.reshape(len(images), -1).tolist())
    return np.array(json.loads(tab.evaluate(program, [text, more])))


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")
class TestInABrowser:
    @pytest.mark.parametrize("network", [0, 1])
    def test_the_logits_agree_with_jax(self, opened: Open, network: int) -> None:
        """The page rounds the parameters to float16."""
        images = image_datasets.embedded_images()["test"][0]
        run = Network(Record(REPOSITORY / REFERENCE_WORKDIRS[network]), "best")
        (expected,) = run.logits(Inputs(images), every_step=True)
        logits = results_of(opened(), "rnnmnist.logits", images, network)
        assert logits.shape == expected.shape == (500, 28, 10)
        np.testing.assert_allclose(logits, expected, rtol=0, atol=3e-3)
        predicted = logits[:, -1].argmax(-1)
        np.testing.assert_array_equal(predicted, expected[:, -1].argmax(-1))

    def test_drawings_get_the_same_predictions_as_pictures_of_them(
        self, opened: Open
    ) -> None:
        """Drawings are transformed at random and drawn with an unsteady hand."""
        program = """(strokes) => {
            setStrokes(strokes);
            const picture = document.getElementById("drawing").toDataURL();
            return [[...rnnmnist.rasterize(strokes)], picture];
        }"""
        tab, generator = opened(), np.random.default_rng(0)
        labels = np.array([*DIGITS] * 40)
        images, expected = np.zeros((2, len(labels), 28, 28), np.uint8)
        for index, label in enumerate(labels):
            matrix = 0.065 * (np.eye(2) + generator.normal(0, 0.12, (2, 2)))
            strokes = []
            for stroke in DIGITS[label]:
                unsteady = stroke + generator.normal(-5, 0.35, (len(stroke), 2))
                strokes.append((unsteady @ matrix + 0.5).tolist())
            pixels, url = tab.evaluate(program, strokes)
            images[index] = np.reshape(pixels, (28, 28))
            picture = Image.open(io.BytesIO(base64.b64decode(url.split(",")[1])))
            levels = np.asarray(picture.getchannel("A")) / 255
            expected[index] = preprocess(levels)
        classify = load(REPOSITORY / REFERENCE_WORKDIRS[0]).classify
        found = classify(images).argmax(-1)
        assert (found == labels).mean() >= 0.98
        assert (found == classify(expected).argmax(-1)).mean() >= 0.985

    def test_drawing_by_mouse(self, opened: Open) -> None:
        """For a dot or a scribble, the page warns that it may not be a digit."""
        tab = opened()
        draw(tab, *DIGITS[1])
        wait_for_result(tab, "Prediction: 1")
        tab.click("#clear")
        assert tab.is_visible("#prompt")
        # The page does not scroll when a finger draws.
        style = "getComputedStyle(document.getElementById('drawing'))"
        assert tab.evaluate(f"{style}.touchAction") == "none"
        draw(tab, *DIGITS[7])
        wait_for_result(tab, "Prediction: 7")
        assert tab.inner_text(".panel .digit") == "7"
        draw(tab, [(2, 5), (7, 5)])
        tab.click("#undo")
        wait_for_result(tab, "Prediction: 7")
        scribble: Stroke = [(1 + 8 * (row % 2), 1 + row / 3) for row in range(24)]
        for strokes in ([[(5, 5), (5.1, 5)]], [scribble]):
            tab.click("#clear")
            draw(tab, *strokes)
            wait_for_result(tab, "This may not be a digit")

    def test_samples_are_played_back(self, opened: Open) -> None:
        """The page opens with the first sample."""
        tab = opened(reduced_motion="no-preference")
        wait_for_result(tab, "Prediction: 0")
        for sample in tab.locator(".thumbnails button").all()[::5]:
            sample.press("Enter")
            label = sample.get_attribute("aria-label")
            wait_for_result(tab, f"Prediction: {label[-1]}")
        for key, expected in (("Home", "0"), ("ArrowRight", "1"), ("End", "28")):
            tab.focus("#row")
            tab.keyboard.press(key)
            assert tab.input_value("#row") == expected
        tab.click("#play")
        tab.wait_for_function("() => document.getElementById('row').value > 3")
        tab.click("#play")
        paused = tab.input_value("#row")
        tab.wait_for_timeout(300)
        assert tab.input_value("#row") == paused != "28"
        tab.click("#play")
        wait_for_result(tab)

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_the_page_fits_and_axe_finds_no_violation(
        self, opened: Open, scheme: str
    ) -> None:
        tab = opened(color_scheme=scheme)
        draw(tab, *CROSS)
        wait_for_result(tab)  # with the longest summary
        for width, index in ((1280, 14), (768, 0), (390, 28), (320, 14)):
            tab.set_viewport_size({"width": width, "height": 844})
            tab.evaluate("(row) => goTo(row)", index)
            fits = "document.documentElement.scrollWidth <= innerWidth"
            assert tab.evaluate(fits), width
            found = Axe().run(tab)
            assert found.violations_count == 0, found.generate_report()
