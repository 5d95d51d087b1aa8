"""The drawing page: its content, and its behaviour in a browser."""

import base64
import itertools
import json
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jax
import matplotlib
import numpy as np
import outlier_check
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image, ImageDraw
from robustness import preprocess_file
from support import (
    ORIGINALS,
    REPOSITORY,
    Command,
    in_a_browser,
    inputs_of,
    one_line_error,
    refused,
)

from rnnmnist.config.files import REFERENCES
from rnnmnist.config.schema import Config, ModelConfig
from rnnmnist.data import datasets
from rnnmnist.data.images import FILES, read_idx
from rnnmnist.errors import UserError
from rnnmnist.inference import out_of_distribution, preprocessing
from rnnmnist.inference.predictor import Predictor
from rnnmnist.inference.preprocessing import preprocess
from rnnmnist.models.lstm import GATES
from rnnmnist.runtime.ensemble import split_ensemble
from rnnmnist.web import drawing_page

SIDE = 280  # pixels of a drawing
AGREEMENT = 0.985  # of the predictions for a drawing and for a picture of it
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def page(once: Callable[[str, Callable[[Path], None]], Path], command: Command) -> Path:
    """The page of the two models that are shipped."""

    def write(folder: Path) -> None:
        folder.mkdir()
        output = folder / "the page.html"
        finished = command("page", f"--output={output}")
        assert finished.returncode == 0, finished.stderr
        assert finished.stderr == ""
        assert finished.stdout.startswith(f"{output} (")

    return once("page", write) / "the page.html"


@pytest.fixture(scope="module")
def content(page: Path) -> dict[str, Any]:
    """The data that the page carries."""
    return data_of(page.read_text())


def data_of(text: str) -> dict[str, Any]:
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', text)
    assert found is not None
    return json.loads(found[1])


class Tags(HTMLParser):
    """Every tag of a page with its attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_page_is_self_contained(page: Path) -> None:
    text = page.read_text()
    assert page.stat().st_size <= 1_500_000
    assert [path.name for path in page.parent.iterdir()] == [page.name]
    for word in ("http:", "https:", "fetch(", "XMLHttpRequest", "import(", "url("):
        assert word not in text
    policies = 0
    for tag, attributes in Tags(text).found:
        assert "src" not in attributes
        assert attributes.get("href", "data:,") == "data:,"
        assert not any(name.startswith("on") for name in attributes), tag
        policies += (attributes.get("content") or "").startswith("default-src 'none'")
    assert policies == 1


def test_the_template_is_filled(page: Path) -> None:
    text = page.read_text()
    assert "{{" not in text
    for name in drawing_page.SCRIPTS:
        assert (drawing_page.FOLDER / f"{name}.js").read_text() in text
    assert (drawing_page.FOLDER / "style.css").read_text() in text


def test_the_page_contains_the_weights(content: dict[str, Any]) -> None:
    networks = content["networks"]
    assert [network["loss"] for network in networks] == ["last", "every_step"]
    assert [network["title"] for network in networks] == list(
        drawing_page.TITLES.values()
    )
    for network, workdir in zip(networks, REFERENCES, strict=True):
        (params,) = split_ensemble(Predictor(REPOSITORY / workdir).params)
        cell, head = params["cell"], params["head"]
        expected = {
            "row": np.hstack([cell[f"i{gate}"]["kernel"] for gate in GATES]),
            "bias": np.hstack([cell[f"h{gate}"]["bias"] for gate in GATES]),
            "hidden": np.hstack([cell[f"h{gate}"]["kernel"] for gate in GATES]),
            "head": head["kernel"],
            "headBias": head["bias"],
        }
        assert network["units"] == 176
        assert network["params"].keys() == expected.keys()
        for name, array in expected.items():
            carried = np.frombuffer(base64.b64decode(network["params"][name]), "<f2")
            np.testing.assert_array_equal(carried, np.float16(array).ravel())


@pytest.mark.slow
def test_half_precision_changes_no_prediction(originals: Path) -> None:
    images = read_idx(originals / "mnist" / FILES["test"][0])
    for workdir in REFERENCES:
        predictor = Predictor(REPOSITORY / workdir)
        expected = predictor.classify(images).argmax(-1)
        predictor.params = as_float16(predictor.params)
        np.testing.assert_array_equal(predictor.classify(images).argmax(-1), expected)


def test_samples_are_two_of_each_digit_and_the_hardest(content: dict[str, Any]) -> None:
    images, labels = datasets.embedded_images()["test"]
    predictor = Predictor(REPOSITORY / REFERENCES[0])
    probabilities = predictor.classify(images, every_step=True)[:, -1]
    indices = {image.tobytes(): index for index, image in enumerate(images)}
    easy: list[int] = []
    hard: list[int] = []
    for sample in content["samples"]:
        index = indices[base64.b64decode(sample["pixels"])]
        assert sample["label"] == labels[index]
        (hard if sample["hard"] else easy).append(index)
    assert sorted(labels[easy]) == sorted([*range(10), *range(10)])
    assert len(set(hard)) == drawing_page.HARD
    of_label = probabilities[np.arange(len(labels)), labels]
    assert of_label[hard].max() <= np.delete(of_label, hard).min()
    wrong = np.flatnonzero(probabilities.argmax(-1) != labels)
    assert len(wrong) > drawing_page.HARD or set(wrong) <= set(hard)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "--output"),
        (["--output=page.txt"], "'page.txt'"),
        (["--output=nowhere/page.html"], "'nowhere/page.html'"),
        (["--output=page.html", "--workdir=nowhere"], "nowhere does not exist"),
        (["--output=page.html", "--wrokdir=a"], "did you mean '--workdir'?"),
        (["--output=page.html", "--workdir=a", "--workdir=./a"], "more than once"),
        (["--output=page.html", *[f"--workdir={n}" for n in "abc"]], "not 3"),
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


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (Config(model=ModelConfig(cell="gru")), "model.cell=lstm"),
        (Config(model=ModelConfig(pooling="mean")), "model.pooling=last"),
        (Config(model=ModelConfig(hidden_size=513)), "at most 512 units"),
        (Config(num_seeds=3), "num_seeds=1"),
    ],
)
def test_the_page_shows_one_lstm(config: Config, named: str) -> None:
    drawing_page.check_supported(Path("run"), Config())
    with pytest.raises(UserError, match=named):
        drawing_page.check_supported(Path("run"), config)


def test_titles_of_equal_losses_contain_the_run() -> None:
    predictor = Predictor(REPOSITORY / REFERENCES[0])
    networks = [drawing_page.Network(name, predictor) for name in ("a", "</script>")]
    page = drawing_page.render(networks)
    titles = [network["title"] for network in data_of(page)["networks"]]
    assert titles == ["Last-row loss: a", "Last-row loss: </script>"]
    assert page.count("</script>") == 4


def digits() -> np.ndarray:
    """1,000 images, of MNIST's test split if it is available, uint8 [n, 28, 28]."""
    folder = ORIGINALS / "mnist"
    if folder.exists():
        return read_idx(folder / FILES["test"][0])[:1000]
    splits = datasets.embedded_images()
    return np.concatenate([splits["test"][0], splits["validation"][0]])


# The strokes of each digit, points [x, y] between which a pen moves.
STROKES: tuple[list[list[tuple[float, float]]], ...] = (
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
Strokes = list[list[list[float]]]


def drawings(count: int) -> tuple[list[Strokes], np.ndarray]:
    """Digits as strokes: rotated, sheared, scaled, moved and unsteady; and labels."""
    generator = np.random.default_rng(0)
    labels, drawn = np.arange(count) % 10, list[Strokes]()
    for label in labels:
        angle, shear = generator.normal(0, 0.1), generator.normal(0, 0.15)
        size = generator.uniform([0.03, 0.05], 0.08)
        matrix = np.array([[1, shear], [angle, 1]]) * size
        place = generator.uniform(-0.08, 0.08, 2) + 0.5
        drawn.append(
            [
                (
                    (np.array(stroke) - 5 + generator.normal(0, 0.35, (len(stroke), 2)))
                    @ matrix.T
                    + place
                ).tolist()
                for stroke in STROKES[label]
            ]
        )
    return drawn, labels


def picture(strokes: Strokes) -> np.ndarray:
    """Draws strokes with a round pen, as the page shows them: uint8 [280, 280]."""
    image = Image.new("L", (SIDE, SIDE))
    pen, canvas = SIDE // 12, ImageDraw.Draw(image)
    for stroke in strokes:
        points = [(SIDE * x, SIDE * y) for x, y in curve(stroke)]
        canvas.line(points, 255, pen, "curve")
        for x, y in (points[0], points[-1]):
            canvas.ellipse((x - pen / 2, y - pen / 2, x + pen / 2, y + pen / 2), 255)
    return np.asarray(image)


def curve(stroke: list[list[float]]) -> np.ndarray:
    """Joins the middles between points by quadratic Bézier curves, as the page does."""
    points = np.array(stroke)
    along, path, start = np.linspace(0, 1, 9)[:, None], [points[:1]], points[0]
    for point, following in itertools.pairwise(points[1:]):
        end = (point + following) / 2
        path.append(
            (1 - along) ** 2 * start + 2 * along * (1 - along) * point + along**2 * end
        )
        start = end
    return np.concatenate([*path, points[-1:]])


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


def draw(tab: Any, *strokes: list[tuple[float, float]]) -> None:
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


def called(tab: Any, program: str, images: np.ndarray, *more: Any) -> list[Any]:
    """Calls a JavaScript function for each image.

    Args:
        tab: in which the page is open.
        program: a function of the image's levels and of `more`.
        images: uint8 [n, height, width], sent as bytes, which is faster than a list.
        more: further arguments.
    """
    whole = """([sent, size, more]) => {
        const all = Uint8Array.from(atob(sent), (letter) => letter.charCodeAt(0));
        const images = Array.from({ length: all.length / size }, (_, at) =>
            all.subarray(at * size, (at + 1) * size));
        return JSON.stringify(images.map((levels) => (PROGRAM)(levels, ...more)));
    }""".replace("PROGRAM", program)
    sent = base64.b64encode(images.tobytes()).decode()
    size = images[0].size
    return list(json.loads(tab.evaluate(whole, [sent, size, more])))


def as_float16(params: Any) -> Any:
    """The parameters as the page carries them."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, "<f2").astype("<f4"), params)


def digits_and_others() -> np.ndarray:
    """250 digits, then letters, noise, photographs and blank pages, preprocessed."""
    photograph = Path(matplotlib.get_data_path()) / "sample_data/grace_hopper.jpg"
    files = [
        *outlier_check.letters(100),
        *outlier_check.noises(50),
        *outlier_check.photographs(100, [str(photograph)]),
        *outlier_check.blank_pages(5),
    ]
    others = np.stack([preprocess_file(file) for file in files])
    return np.concatenate([digits()[:250], others])


ONE = [(0.5, 0.15), (0.5, 0.85)]
CROSS = [[(0.2, 0.2), (0.8, 0.8)], [(0.8, 0.2), (0.2, 0.8)]]
SEVEN = [(0.25, 0.2), (0.75, 0.2), (0.45, 0.85)]


@in_a_browser
class TestInABrowser:
    """What the HTML file alone does not show."""

    @pytest.mark.parametrize("network", [0, 1])
    def test_the_logits_agree_with_jax(self, opened: Open, network: int) -> None:
        images = digits()
        predictor = Predictor(REPOSITORY / REFERENCES[network])
        (params,) = split_ensemble(predictor.params)
        expected = np.asarray(
            predictor.model.apply(
                {"params": as_float16(params)}, inputs_of(images), every_step=True
            )
        )
        program = "(levels, network) => rnnmnist.logits(levels, network)"
        logits = np.array(called(opened(), program, images, network))
        assert logits.shape == expected.shape == (1000, 28, 10)
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
        predicted = logits[:, -1].argmax(-1)
        np.testing.assert_array_equal(predicted, expected[:, -1].argmax(-1))

    def test_the_out_of_distribution_check_agrees(self, opened: Open) -> None:
        images, check = digits_and_others(), out_of_distribution.load()
        expected = check.is_digit(images)
        program = "(levels) => rnnmnist.isDigit(levels)"
        actual = np.array(called(opened(), program, images))
        at_threshold = np.abs(check.scores(images) - check.max_score) < 1e-3
        np.testing.assert_array_equal(actual[~at_threshold], expected[~at_threshold])
        assert at_threshold.mean() < 0.01
        assert 240 <= expected[:250].sum() > 3 * expected[250:].sum()

    def test_drawings_are_predicted_as_their_pictures(self, opened: Open) -> None:
        """The page renders strokes; Python preprocesses a picture of them."""
        drawn, labels = drawings(500)
        program = "(all) => all.map((strokes) => [...rnnmnist.rasterize(strokes)])"
        rendered = opened().evaluate(program, drawn)
        images = np.array(rendered, np.uint8).reshape(-1, 28, 28)
        predictor = Predictor(REPOSITORY / REFERENCES[0])
        pictures = (picture(strokes) / 255 for strokes in drawn)
        expected = np.stack([preprocess(levels).image for levels in pictures])
        found, others = (
            predictor.classify(pixels).argmax(-1) for pixels in (images, expected)
        )
        assert (found == labels).mean() >= 0.98
        assert (found == others).mean() >= AGREEMENT

    def test_a_drawing_has_the_form_of_mnist(self, opened: Open) -> None:
        tab = opened()
        draw_one = "(strokes) => [...rnnmnist.rasterize(strokes)]"
        assert tab.evaluate(draw_one, []) == [0] * 28**2
        dot = [[(0.4, 0.4), (0.41, 0.42)]]
        for strokes, side in (([ONE], 20), ([SEVEN], 20), (CROSS, 20), (dot, 7)):
            image = np.array(tab.evaluate(draw_one, strokes)).reshape(28, 28)
            rows, columns = (np.flatnonzero(image.max(axis) > 64) for axis in (1, 0))
            sides = [np.ptp(rows) + 1, np.ptp(columns) + 1]
            assert max(sides) == pytest.approx(side, abs=1)
            centre = np.array(np.nonzero(image)) @ image[image > 0] / image.sum()
            np.testing.assert_allclose(centre, preprocessing.CENTRE, atol=0.6)

    def test_drawing_by_mouse(self, opened: Open) -> None:
        tab = opened()
        assert tab.is_visible("#prompt")
        draw(tab, ONE)
        assert tab.is_hidden("#prompt")
        wait_for_result(tab, "Prediction: 1")
        tab.click("#clear")
        assert "Draw a digit" in tab.inner_text("#result")
        draw(tab, SEVEN)
        wait_for_result(tab, "Prediction: 7")
        assert tab.inner_text(".panel .digit") == "7"
        draw(tab, [(0.2, 0.5), (0.7, 0.5)])
        tab.click("#undo")
        assert tab.inner_text("#result").startswith("Prediction: 7")
        tab.focus("#undo")
        tab.keyboard.press("Enter")
        assert "Draw a digit" in tab.inner_text("#result")
        tab.keyboard.press("Space")  # nothing is left to undo
        assert tab.is_visible("#prompt")
        draw(tab, ONE)
        wait_for_result(tab)
        tab.focus("#clear")
        tab.keyboard.press("Space")
        assert "Draw a digit" in tab.inner_text("#result")

    def test_other_drawings_are_rejected(self, opened: Open) -> None:
        tab = opened()
        notes = tab.locator(".panel .probability")
        tab.click("#clear")
        assert tab.inner_text("#result") == "The image is blank. Draw a digit."
        draw(tab, *CROSS)
        assert wait_for_result(tab).startswith("This does not look like a digit.")
        assert all("out of distribution" in text for text in notes.all_inner_texts())
        alt = tab.get_attribute(".panel .bars", "aria-label")
        assert alt.endswith("; out of distribution")
        tab.click("#back")
        assert tab.inner_text("#result") == ""
        assert all("since row" in text for text in notes.all_inner_texts())
        tab.click("#clear")
        draw(tab, ONE)
        wait_for_result(tab, "Prediction: 1")
        assert all("since row" in text for text in notes.all_inner_texts())

    def test_the_sentence_follows_the_probabilities(self, opened: Open) -> None:
        tab = opened()
        kinds = []
        for index in range(1, 28):
            tab.evaluate("(row) => goTo(row)", index)
            text = tab.inner_text("#progress")
            found = re.match(
                rf"Row {index}, every-row loss: (undecided|probably|3)", text
            )
            assert found is not None, text
            kinds.append(found[1])
        assert kinds[0] == "undecided"
        assert kinds[-1] == "3"
        assert "probably" in kinds

    def test_a_stroke_replaces_the_recorded_drawing(self, opened: Open) -> None:
        tab = opened(reduced_motion="no-preference")
        draw(tab, ONE)  # while it is drawn
        wait_for_result(tab, "Prediction: 1")
        tab.click("#undo")
        assert tab.inner_text("#result") == "The image is blank. Draw a digit."

    def test_playback_completes_the_recorded_drawing(self, opened: Open) -> None:
        tab = opened(reduced_motion="no-preference")
        assert tab.inner_text("#result") == ""
        tab.evaluate("goTo(14)")  # while it is drawn
        tab.wait_for_timeout(1500)
        assert row(tab) == 14
        assert not is_playing(tab)

    def test_drawing_by_touch(self, opened: Open) -> None:
        tab = opened(390, 844, has_touch=True, is_mobile=True)
        box = tab.locator("#drawing").bounding_box()
        fingers = tab.context.new_cdp_session(tab)
        for index in range(12):
            fingers.send(
                "Input.dispatchTouchEvent",
                {
                    "type": "touchMove" if index else "touchStart",
                    "touchPoints": [
                        {
                            "x": box["x"] + box["width"] / 2,
                            "y": box["y"] + box["height"] * (0.15 + 0.06 * index),
                        }
                    ],
                },
            )
        fingers.send(
            "Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []}
        )
        wait_for_result(tab, "Prediction: 1")
        assert tab.evaluate("scrollY") == 0

    def test_the_page_plays_a_recorded_drawing_when_it_opens(
        self, opened: Open
    ) -> None:
        tab = opened(reduced_motion="no-preference")
        assert not is_playing(tab)  # while it is drawn
        tab.wait_for_selector(".is-playing")
        assert row(tab) < 28
        assert tab.inner_text("#result") == ""
        assert wait_for_result(tab).startswith("Prediction: 3")
        assert row(tab) == 28
        assert not is_playing(tab)

    def test_reduced_motion(self, opened: Open) -> None:
        tab = opened()
        assert not is_playing(tab)
        assert row(tab) == 28
        assert wait_for_result(tab).startswith("Prediction: 3")

    def test_playback_by_mouse(self, opened: Open) -> None:
        tab = opened()
        tab.click("#back")
        assert row(tab) == 27
        assert tab.inner_text("#result") == ""
        text = tab.inner_text("#progress")
        assert re.fullmatch(
            r"Row 27, every-row loss: 3 \(9\d.%\), predicted since row \d+\.", text
        )
        tab.click("#forward")
        tab.click("#forward")
        assert row(tab) == 28
        tab.click("#restart")
        assert row(tab) == 0
        assert tab.inner_text(".panel .digit") == "?"
        tab.click("#play")
        assert tab.inner_text("#play") == "Pause"
        tab.wait_for_function("() => document.getElementById('row').value > 3")
        tab.click("#play")
        assert tab.inner_text("#play") == "Play"
        paused = row(tab)
        tab.wait_for_timeout(300)
        assert 3 < row(tab) == paused < 28
        tab.click("#row")  # in the middle
        assert 13 <= row(tab) <= 15
        tab.click("#play")
        wait_for_result(tab)

    def test_playback_by_keyboard(self, opened: Open) -> None:
        tab = opened()
        tab.focus("#row")
        for key, expected in (
            *(("Home", 0), ("ArrowRight", 1), ("ArrowUp", 2), ("ArrowLeft", 1)),
            *(("End", 28), ("ArrowRight", 28)),
        ):
            tab.keyboard.press(key)
            assert row(tab) == expected
        text = tab.get_attribute("#row", "aria-valuetext")
        assert text.startswith("Row 28, every-row loss: 3 (9")
        tab.keyboard.press("Space")
        assert is_playing(tab)
        tab.keyboard.press("Space")
        assert not is_playing(tab)
        for button, key, expected in (
            *(("restart", "Enter", 0), ("forward", "Space", 1), ("back", "Enter", 0)),
            *(("play", "ArrowRight", 1), ("back", "ArrowRight", 2)),
            ("forward", "ArrowLeft", 1),
        ):
            tab.focus(f"#{button}")
            tab.keyboard.press(key)
            assert row(tab) == expected
        tab.focus("#play")
        tab.keyboard.press("Space")
        assert is_playing(tab)
        wait_for_result(tab)

    def test_samples_and_plots_of_units(self, opened: Open) -> None:
        tab = opened()
        for index, sample in enumerate(tab.locator(".thumbnails button").all()):
            if index % 2:
                sample.click()
            else:
                sample.press("Enter")
            assert sample.get_attribute("aria-pressed") == "true"
            assert tab.locator(".thumbnails [aria-pressed=true]").count() == 1
            label = sample.get_attribute("aria-label")
            assert re.fullmatch(r"(Easy|Hard) sample, label \d", label)
            result = wait_for_result(tab)
            if index < 20:
                assert result.startswith(f"Prediction: {label[-1]}")
        plots = []
        images = "[...document.querySelectorAll('.map canvas')].map(c => c.toDataURL())"
        choices = tab.locator("#choice label")
        assert choices.all_inner_texts() == list(drawing_page.TITLES.values())
        uses: list[Callable[[], Any]] = [
            lambda: choices.nth(1).click(),
            lambda: tab.keyboard.press("ArrowLeft"),
            lambda: tab.keyboard.press("ArrowRight"),
        ]
        for use in uses:
            plots.append(tab.evaluate(images))
            use()
        before, other, again = plots
        assert before == again
        assert not set(before) & set(other)
        assert len(set(before)) == 6
        now = tab.locator(".map .now").nth(1)
        sentences = [now.inner_text()]
        tab.click("#back")
        sentences.append(now.inner_text())
        for row, sentence in zip((28, 27), sentences, strict=True):
            assert re.fullmatch(rf"Row {row}: units keep \d+\s% on average", sentence)

    def test_keyboard_focus(self, opened: Open) -> None:
        tab = opened()
        stops = tab.locator("button, #row").count() + 1  # and a radio button
        where = """() => {
            const at = document.activeElement;
            const seen = at.type === "radio" ? at.nextElementSibling : at;
            const all = [...document.querySelectorAll("button, input")];
            return [all.indexOf(at), getComputedStyle(seen).outlineWidth];
        }"""
        reached = []
        for _ in range(stops):
            tab.keyboard.press("Tab")
            index, outline = tab.evaluate(where)
            assert outline == "3px", index
            reached.append(index)
        assert len(set(reached)) == stops
        assert min(reached) == 0  # none is the page itself

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_the_page_fits(self, opened: Open, scheme: str) -> None:
        tab = opened(1920, 800, color_scheme=scheme)
        # The longest result text.
        draw(tab, *CROSS)
        wait_for_result(tab)
        for width in (1920, 1280, 1024, 768, 390, 360, 320):
            tab.set_viewport_size({"width": width, "height": 800})
            fits = "document.documentElement.scrollWidth <= innerWidth"
            assert tab.evaluate(fits), width
            small = tab.evaluate(
                "[...document.querySelectorAll('button, #row, .choice label')].map("
                "e => [e.id, e.offsetWidth, e.offsetHeight]).filter("
                "s => s[1] < 44 || s[2] < 44)"
            )
            assert small == [], width
        ground = tab.evaluate("getComputedStyle(document.documentElement).background")
        assert ("rgb(20, 23, 27)" in ground) == (scheme == "dark")

    def test_the_first_screen_shows_the_prediction(self, opened: Open) -> None:
        tab = opened(1280, 800)
        for part in ("h1", "#drawing", "#image", "#result", "#playback", "#hard"):
            box = tab.locator(part).bounding_box()
            assert box["y"] + box["height"] <= 800, part
        panels = [panel.bounding_box() for panel in tab.locator(".panel").all()]
        assert len(panels) == 2
        assert panels[0]["y"] == panels[1]["y"]
        assert max(box["y"] + box["height"] for box in panels) <= 800

    def test_a_phone_shows_everything_that_moves(self, opened: Open) -> None:
        tab = opened(390, 844, is_mobile=True)
        draw(tab, *CROSS)  # the longest result
        wait_for_result(tab)
        parts = ("#drawing", "#image", "#result", "#playback")
        for part in (*parts, ".panel >> nth=0", ".panel >> nth=1"):
            box = tab.locator(part).bounding_box()
            assert box["y"] + box["height"] <= 844, part

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_axe_finds_no_violation(self, opened: Open, scheme: str) -> None:
        for width, height in ((1280, 800), (390, 844)):
            tab = opened(width, height, color_scheme=scheme)
            for row in (28, 14, 0):
                tab.evaluate("(row) => goTo(row)", row)
                found = Axe().run(tab)
                assert found.violations_count == 0, found.generate_report()

    def test_every_plot_has_an_alternative_text(self, opened: Open) -> None:
        tab = opened()
        pictures = tab.locator("canvas:not(button canvas), svg.curves, .bars").all()
        assert len(pictures) == 2 + 2 * 2 + 6
        texts = [picture.get_attribute("aria-label") for picture in pictures]
        assert len(set(texts)) == len(texts)
        assert all(picture.get_attribute("role") == "img" for picture in pictures)
        expected = "probabilities after row 28: 3, 9[0-9]\N{NO-BREAK SPACE}%"
        assert any(re.search(expected, text) for text in texts)
        assert tab.get_attribute("#result", "aria-live") == "polite"
