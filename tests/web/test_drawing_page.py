"""The drawing page: its content, and its behaviour in a browser."""

import base64
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import matplotlib
import numpy as np
import outlier_check
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from robustness import preprocess_file
from support import (
    REPOSITORY,
    Command,
    Once,
    in_a_browser,
    inputs_of,
    one_line_error,
    refused,
)

from rnnmnist.config.files import REFERENCES
from rnnmnist.data import datasets
from rnnmnist.data.images import FILES, read_idx
from rnnmnist.errors import UserError
from rnnmnist.inference import out_of_distribution, preprocessing
from rnnmnist.inference.predictor import Predictor
from rnnmnist.inference.preprocessing import preprocess
from rnnmnist.runtime.ensemble import split_ensemble
from rnnmnist.web import drawing_page

Open = Callable[..., Any]
Stroke = list[tuple[float, float]]  # points between which a pen moves, from 0 to 1
ONE: Stroke = [(0.5, 0.15), (0.5, 0.85)]
SEVEN: Stroke = [(0.25, 0.2), (0.75, 0.2), (0.45, 0.85)]
CROSS: list[Stroke] = [[(0.2, 0.2), (0.8, 0.8)], [(0.8, 0.2), (0.2, 0.8)]]
# The strokes of each digit, in tenths.
DIGITS: tuple[list[Stroke], ...] = (
    [[(5, 1), (2, 3), (2, 7), (5, 9), (8, 7), (8, 3), (5, 1)]],
    [[(5, 1), (5, 9)]],
    [[(2, 3), (4, 1), (7, 2), (7, 4), (2, 9), (8, 9)]],
    [[(2, 2), (5, 1), (7, 2), (7, 4), (4, 5), (7, 6), (7, 8), (4, 9), (2, 8)]],
    [[(3, 1), (2, 6), (8, 6)], [(7, 2), (7, 9)]],
    [[(3, 1), (2, 5), (5, 4), (8, 6), (6, 9), (2, 8)], [(3, 1), (8, 1)]],
    [[(6, 1), (3, 4), (2, 7), (5, 9), (7, 7), (5, 5), (2, 7)]],
    [[(2, 1), (8, 1), (4, 9)]],
    [[(7, 2), (4, 1), (3, 3), (7, 7), (5, 9), (3, 7), (6, 4), (7, 2)]],
    [[(7, 3), (5, 1), (3, 3), (5, 5), (7, 3), (6, 9)]],
)


@pytest.fixture(scope="module")
def page(once: Once, command: Command) -> Path:
    """The page of the two models that are shipped."""

    def write(folder: Path) -> None:
        folder.mkdir()
        output = folder / "the page.html"
        finished = command("page", f"--output={output}")
        assert finished.returncode == 0, finished.stderr
        assert finished.stderr == ""
        assert finished.stdout.startswith(f"{output} (")

    return once("page", write) / "the page.html"


def data_of(text: str) -> dict[str, Any]:
    """Returns the data that a page carries."""
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', text)
    assert found is not None
    return json.loads(found[1])


def as_float16(params: Any) -> Any:
    """Returns parameters as the page carries them."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, "<f2").astype("<f4"), params)


def test_the_page_is_self_contained(page: Path) -> None:
    text = page.read_text()
    assert page.stat().st_size <= 1_500_000
    assert [path.name for path in page.parent.iterdir()] == [page.name]
    for word in ("http:", "https:", "fetch(", "XMLHttpRequest", "import(", "url("):
        assert word not in text
    assert not re.search(r"<[^>]* (src|on\w+)=", text)
    assert re.findall(r'href="(.*?)"', text) == ["data:,"]
    assert text.count("default-src 'none'") == 1


@pytest.mark.slow
def test_half_precision_changes_no_prediction(originals: Path) -> None:
    images = read_idx(originals / "mnist" / FILES["test"][0])
    for workdir in REFERENCES:
        predictor = Predictor(REPOSITORY / workdir)
        expected = predictor.classify(images).argmax(-1)
        predictor.params = as_float16(predictor.params)
        np.testing.assert_array_equal(predictor.classify(images).argmax(-1), expected)


def test_samples_are_two_of_each_digit_and_the_hardest(page: Path) -> None:
    images, labels = datasets.embedded_images()["test"]
    probabilities = Predictor(REPOSITORY / REFERENCES[0]).classify(images)
    indices = {image.tobytes(): index for index, image in enumerate(images)}
    samples = data_of(page.read_text())["samples"]
    found = np.array([indices[base64.b64decode(one["pixels"])] for one in samples])
    np.testing.assert_array_equal([one["label"] for one in samples], labels[found])
    is_hard = np.array([one["hard"] for one in samples])
    easy, hard = found[~is_hard], found[is_hard]
    assert sorted(labels[easy]) == sorted([*range(10), *range(10)])
    assert len(set(hard)) == drawing_page.HARD
    of_label = probabilities[np.arange(len(labels)), labels]
    assert of_label[hard].max() <= np.delete(of_label, hard).min() + 1e-6


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "--output"),
        (["--output=page.txt"], "'page.txt'"),
        (["--output=nowhere/page.html"], "'nowhere/page.html'"),
        (["--output=page.html", "--workdir=nowhere"], "nowhere does not exist"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert named in refused("page", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_ends_the_command(command: Command, tmp_path: Path) -> None:
    argv = [f"--output={tmp_path / 'page.html'}", "--wrokdir=a"]
    assert "'--workdir'?" in one_line_error(command("page", *argv))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "value"), [("model.cell", "gru"), ("num_seeds", 3)])
def test_the_page_shows_one_lstm(name: str, value: object) -> None:
    predictor = Predictor(REPOSITORY / REFERENCES[0])
    predictor.config = predictor.config.replace({name: value})
    with pytest.raises(UserError, match=f"{name}={value}"):
        drawing_page.render([predictor])


def test_titles_of_equal_losses_contain_the_run() -> None:
    networks = [Predictor(REPOSITORY / REFERENCES[0]) for _ in range(2)]
    for network, name in zip(networks, ("a", "<script>"), strict=True):
        network.workdir = Path("/runs", name)
    page = drawing_page.render(networks)
    titles = [network["title"] for network in data_of(page)["networks"]]
    assert titles == ["Last-row loss: a", "Last-row loss: <script>"]
    assert page.count("<script>") == 3


def drawings(count: int) -> tuple[list[list[Stroke]], np.ndarray]:
    """Digits as strokes: rotated, sheared, scaled, moved and unsteady; and labels."""
    generator = np.random.default_rng(0)
    labels = np.arange(count) % len(DIGITS)
    drawn = []
    for label in labels:
        angle, shear = generator.normal(0, [0.1, 0.15])
        matrix = np.array([[1, shear], [angle, 1]]) * generator.uniform(0.05, 0.08)
        strokes = [
            (np.array(stroke) - 5 + generator.normal(0, 0.35, (len(stroke), 2)))
            @ matrix.T
            + 0.5
            for stroke in DIGITS[label]
        ]
        drawn.append([stroke.tolist() for stroke in strokes])
    return drawn, labels


@pytest.fixture
def opened(browser: Any, page: Path) -> Iterator[Open]:
    """Opens the page; afterwards checks that it logged and requested nothing."""
    contexts: list[Any] = []
    faults: list[str] = []
    requests: list[str] = []

    def open_page(width: int = 1280, height: int = 800, **options: Any) -> Any:
        still = {"reduced_motion": "reduce"} | options
        size = {"width": width, "height": height}
        contexts.append(browser.new_context(viewport=size, **still))
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


def row(tab: Any) -> int:
    return int(tab.input_value("#row"))


def is_playing(tab: Any) -> bool:
    return bool(tab.evaluate("document.querySelector('.is-playing') !== null"))


def wait_for_result(
    tab: Any, start: str = "Prediction:|Uncertain|The predictions|This"
) -> str:
    """Waits until all rows are read; returns the page's summary."""
    tab.wait_for_function(
        "(start) => RegExp(`^(${start})`).test("
        "document.getElementById('result').textContent)",
        arg=start,
    )
    return str(tab.inner_text("#result"))


def draw(tab: Any, *strokes: Stroke) -> None:
    """Draws with the mouse; points are relative to the canvas."""
    box = tab.locator("#drawing").bounding_box()
    for stroke in strokes:
        for index, (x, y) in enumerate(stroke):
            tab.mouse.move(
                box["x"] + x * box["width"], box["y"] + y * box["height"], steps=8
            )
            if index == 0:
                tab.mouse.down()
        tab.mouse.up()


def called(tab: Any, function: str, images: np.ndarray, *more: Any) -> np.ndarray:
    """Calls a function of the page for each image, uint8 [n, 28, 28]."""
    program = (
        "([text, more]) => JSON.stringify("
        f"JSON.parse(text).map((levels) => {function}(levels, ...more)))"
    )
    text = json.dumps(images.reshape(len(images), -1).tolist())
    return np.array(json.loads(tab.evaluate(program, [text, more])))


@in_a_browser
class TestInABrowser:
    """What the HTML file alone does not show."""

    @pytest.mark.parametrize("network", [0, 1])
    def test_the_logits_agree_with_jax(self, opened: Open, network: int) -> None:
        images = datasets.embedded_images()["test"][0]
        predictor = Predictor(REPOSITORY / REFERENCES[network])
        (params,) = split_ensemble(predictor.params)
        expected = np.asarray(
            predictor.model.apply(
                {"params": as_float16(params)}, inputs_of(images), every_step=True
            )
        )
        logits = called(opened(), "rnnmnist.logits", images, network)
        assert logits.shape == expected.shape == (500, 28, 10)
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
        predicted = logits[:, -1].argmax(-1)
        np.testing.assert_array_equal(predicted, expected[:, -1].argmax(-1))

    def test_the_out_of_distribution_check_agrees(self, opened: Open) -> None:
        photograph = Path(matplotlib.get_data_path()) / "sample_data/grace_hopper.jpg"
        files = [
            *outlier_check.letters(100),
            *outlier_check.noises(50),
            *outlier_check.photographs(100, [str(photograph)]),
            *outlier_check.blank_pages(5),
        ]
        digits = datasets.embedded_images()["test"][0][:250]
        images = np.concatenate([digits, [preprocess_file(file) for file in files]])
        check = out_of_distribution.load()
        expected = check.is_digit(images)
        actual = called(opened(), "rnnmnist.isDigit", images)
        at_threshold = np.abs(check.scores(images) - check.max_score) < 1e-3
        np.testing.assert_array_equal(actual[~at_threshold], expected[~at_threshold])
        assert at_threshold.mean() < 0.01
        assert 240 <= expected[:250].sum() > 3 * expected[250:].sum()

    def test_drawings_are_predicted_as_pictures_of_them(self, opened: Open) -> None:
        drawn, labels = drawings(200)
        program = """(strokes) => {
            setStrokes(strokes);
            const picture = document.getElementById("drawing").toDataURL();
            return [[...rnnmnist.rasterize(strokes)], picture];
        }"""
        tab = opened()
        images, pictures = zip(
            *(tab.evaluate(program, one) for one in drawn), strict=True
        )
        files = (io.BytesIO(base64.b64decode(url.split(",")[1])) for url in pictures)
        alphas = [np.asarray(Image.open(file).getchannel("A")) / 255 for file in files]
        expected = np.stack([preprocess(levels).image for levels in alphas])
        predictor = Predictor(REPOSITORY / REFERENCES[0])
        found, others = (
            predictor.classify(pixels).argmax(-1)
            for pixels in (np.array(images, np.uint8).reshape(-1, 28, 28), expected)
        )
        assert (found == labels).mean() >= 0.98
        assert (found == others).mean() >= 0.985

    def test_a_drawing_has_the_form_of_mnist(self, opened: Open) -> None:
        tab = opened()
        program = "(strokes) => [...rnnmnist.rasterize(strokes)]"
        assert tab.evaluate(program, []) == [0] * 28**2
        dot: list[Stroke] = [[(0.4, 0.4), (0.41, 0.42)]]
        for strokes, side in (([ONE], 20), ([SEVEN], 20), (CROSS, 20), (dot, 7)):
            image = np.array(tab.evaluate(program, strokes)).reshape(28, 28)
            rows, columns = (np.flatnonzero(image.max(axis) > 64) for axis in (1, 0))
            assert max(np.ptp(rows), np.ptp(columns)) + 1 == pytest.approx(side, abs=1)
            centre = np.array(np.nonzero(image)) @ image[image > 0] / image.sum()
            np.testing.assert_allclose(centre, preprocessing.CENTRE, atol=0.6)

    def test_drawing_by_mouse(self, opened: Open) -> None:
        tab = opened()
        assert tab.is_visible("#prompt")
        draw(tab, ONE)
        assert tab.is_hidden("#prompt")
        wait_for_result(tab, "Prediction: 1")
        tab.click("#clear")
        assert tab.is_visible("#prompt")
        draw(tab, SEVEN)
        wait_for_result(tab, "Prediction: 7")
        assert tab.inner_text(".panel .digit") == "7"
        draw(tab, [(0.2, 0.5), (0.7, 0.5)])
        tab.click("#undo")
        wait_for_result(tab, "Prediction: 7")
        tab.focus("#undo")
        tab.keyboard.press("Enter")
        tab.keyboard.press("Space")  # nothing is left to undo
        assert tab.is_visible("#prompt")

    def test_drawing_by_touch(self, opened: Open) -> None:
        tab = opened(390, 844, has_touch=True, is_mobile=True)
        box = tab.locator("#drawing").bounding_box()
        x = box["x"] + box["width"] / 2
        fingers = tab.context.new_cdp_session(tab)

        def send(kind: str, *points: dict[str, float]) -> None:
            event = {"type": kind, "touchPoints": points}
            fingers.send("Input.dispatchTouchEvent", event)

        for index in range(12):
            y = box["y"] + box["height"] * (0.15 + 0.06 * index)
            send("touchMove" if index else "touchStart", {"x": x, "y": y})
        send("touchEnd")
        wait_for_result(tab, "Prediction: 1")
        assert tab.evaluate("scrollY") == 0

    def test_other_drawings_are_rejected(self, opened: Open) -> None:
        tab = opened()
        rejected = tab.locator(".panel .digit.rejected")
        for strokes, count in ((CROSS, 2), ([ONE], 0)):
            tab.click("#clear")
            draw(tab, *strokes)
            wait_for_result(tab, "This" if count else "Prediction: 1")
            assert rejected.count() == count
            tab.click("#back")
            assert rejected.count() == 0

    def test_the_recorded_drawing(self, opened: Open) -> None:
        tab = opened(reduced_motion="no-preference")
        assert not is_playing(tab)  # while it is drawn
        tab.wait_for_selector(".is-playing")
        wait_for_result(tab, "Prediction: 3")
        assert row(tab) == 28
        assert not is_playing(tab)
        tab = opened(reduced_motion="no-preference")
        draw(tab, ONE)  # replaces it while it is drawn
        wait_for_result(tab, "Prediction: 1")
        tab.click("#undo")
        assert tab.is_visible("#prompt")
        tab = opened(reduced_motion="no-preference")
        tab.evaluate("goTo(14)")  # completes it while it is drawn
        tab.wait_for_timeout(1500)
        assert row(tab) == 14
        assert not is_playing(tab)

    def test_playback_by_mouse(self, opened: Open) -> None:
        tab = opened()
        assert not is_playing(tab)  # with reduced motion
        for button, expected in (
            *(("back", 27), ("forward", 28), ("forward", 28)),
            *(("restart", 0), ("row", 14)),  # in the middle of the slider
        ):
            tab.click(f"#{button}")
            assert row(tab) == pytest.approx(expected, abs=button == "row")
            assert (tab.inner_text(".panel .digit") == "?") == (expected == 0)
        tab.click("#play")
        tab.wait_for_function("() => document.getElementById('row').value > 17")
        tab.click("#play")
        paused = row(tab)
        tab.wait_for_timeout(300)
        assert 17 < row(tab) == paused < 28
        tab.click("#play")
        wait_for_result(tab)

    def test_playback_by_keyboard(self, opened: Open) -> None:
        tab = opened()
        outline = "getComputedStyle(document.activeElement).outlineWidth"
        for button, key, expected in (
            *(("row", "Home", 0), ("row", "ArrowRight", 1), ("row", "ArrowUp", 2)),
            *(("row", "ArrowLeft", 1), ("row", "End", 28), ("row", "ArrowRight", 28)),
            *(("restart", "Enter", 0), ("forward", "Space", 1), ("back", "Enter", 0)),
            *(("play", "ArrowRight", 1), ("back", "ArrowRight", 2)),
            ("forward", "ArrowLeft", 1),
        ):
            tab.focus(f"#{button}")
            assert tab.evaluate(outline) == "3px", button
            tab.keyboard.press(key)
            assert row(tab) == expected
        for button in ("row", "play"):
            tab.focus(f"#{button}")
            tab.keyboard.press("Space")
            assert is_playing(tab)
            tab.keyboard.press("Space")
            assert not is_playing(tab)

    def test_samples_and_plots_of_units(self, opened: Open) -> None:
        tab = opened()
        for index, sample in enumerate(tab.locator(".thumbnails button").all()):
            sample.press("Enter")
            assert sample.get_attribute("aria-pressed") == "true"
            assert tab.locator(".thumbnails [aria-pressed=true]").count() == 1
            label = sample.get_attribute("aria-label")
            wait_for_result(tab, f"Prediction: {label[-1]}" if index < 20 else ".")
        images = "[...document.querySelectorAll('.map canvas')].map(c => c.toDataURL())"
        before = tab.evaluate(images)
        tab.locator("#choice label").nth(1).click()
        other = tab.evaluate(images)
        tab.keyboard.press("ArrowLeft")
        assert tab.evaluate(images) == before
        assert len({*before, *other}) == 12

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_the_page_fits_and_axe_finds_no_violation(
        self, opened: Open, scheme: str
    ) -> None:
        tab = opened(1920, 800, color_scheme=scheme)
        draw(tab, *CROSS)
        wait_for_result(tab)  # the longest one
        for width in (1920, 1280, 1024, 768, 390, 360, 320):
            tab.set_viewport_size({"width": width, "height": 844})
            fits = "document.documentElement.scrollWidth <= innerWidth"
            assert tab.evaluate(fits), width
            small = tab.evaluate(
                "[...document.querySelectorAll('button, #row, .choice label')].map("
                "e => [e.id, e.offsetWidth, e.offsetHeight]).filter("
                "s => s[1] < 44 || s[2] < 44)"
            )
            assert small == [], width
            if width in (1280, 390):  # the first screen shows everything that moves
                parts = ("#drawing", "#image", "#result", "#playback", ".panel")
                for part in tab.locator(",".join(parts)).all():
                    box = part.bounding_box()
                    assert box["y"] + box["height"] <= 844, (width, part)
                for index in (28, 14, 0):
                    tab.evaluate("(row) => goTo(row)", index)
                    found = Axe().run(tab)
                    assert found.violations_count == 0, found.generate_report()
                tab.evaluate("goTo(28)")
        ground = tab.evaluate("getComputedStyle(document.documentElement).background")
        assert ("rgb(20, 23, 27)" in ground) == (scheme == "dark")
