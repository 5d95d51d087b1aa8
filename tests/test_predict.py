"""A person's own pictures: prepared, read, refused, as real files and commands."""

import io
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import example_photo
import make_likeness
import numpy as np
import pytest
import robustness
from PIL import Image
from support import REPOSITORY, Command, one_line_error, refused

from rnnmnist import Predictor, predict
from rnnmnist.data import embedded
from rnnmnist.data.builder import FILES, read_part
from rnnmnist.errors import UserError
from rnnmnist.inference import image_io
from rnnmnist.inference.out_of_distribution import of_digits
from rnnmnist.inference.preprocessing import prepare, stroke_width
from rnnmnist.inference.terminal import bar, candidates, lines
from rnnmnist.reporting import plots

LEVELS = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16")


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor()


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """The embedded test images: 50 of each digit."""
    return embedded.splits()["test"]


def black_on_white(image: np.ndarray, side: int = 280) -> Image.Image:
    page = np.rint(255 * (1 - robustness.drawn(image))).astype(np.uint8)
    return Image.fromarray(page).resize((side, side))


def saved(image: Image.Image, kind: str = "PNG", **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def test_images_of_mnist_go_through_unchanged(
    digits: tuple[np.ndarray, np.ndarray],
) -> None:
    for image in np.concatenate([digits[0], embedded.splits()["train"][0][::8]]):
        grey = image_io.decode(saved(Image.fromarray(image)), "digit")
        assert (prepare(grey).image == image).all()


@pytest.mark.slow
def test_all_of_mnist_goes_through_unchanged(originals: Path) -> None:
    folder = originals / "mnist"
    for part in ("train", "test"):
        images, _ = read_part(*(folder / file for file in FILES[part]))
        assert all(map(robustness.is_unchanged, images))


# 25 images take a quarter of the time, and the bound is the same.
@pytest.mark.parametrize("every", [20, pytest.param(5, marks=pytest.mark.slow)])
@pytest.mark.parametrize("variant", robustness.VARIANTS)
def test_drawn_in_any_way_they_are_read(
    variant: str,
    every: int,
    digits: tuple[np.ndarray, np.ndarray],
    predictor: Predictor,
) -> None:
    """All 10,000 images are in docs/predict.md, where each is above 97.5 %."""
    images, labels = digits
    prepared = np.stack(
        [
            robustness.prepared(robustness.file_of(image, variant, seed))
            for seed, image in enumerate(images[::every])
        ]
    )
    right = (
        predictor.predict_probabilities(prepared)[:, -1].argmax(-1) == labels[::every]
    )
    assert right.mean() >= 0.94  # 97.5 %, less two standard errors of 100 images


@pytest.mark.parametrize("mode", LEVELS)
def test_every_mode_is_the_same_picture(
    mode: str, digits: tuple[np.ndarray, np.ndarray], predictor: Predictor
) -> None:
    image, label = digits[0][120], int(digits[1][120])
    page = black_on_white(image)
    if mode == "I;16":
        wide = np.asarray(page, np.uint16) * 257
        content = saved(Image.fromarray(wide))
    else:
        content = saved(page.convert(mode), "JPEG" if mode == "CMYK" else "PNG")
    reading = predictor.predict(content)
    assert reading.digit == label
    assert reading.looks_like_digit


@pytest.mark.parametrize(
    ("ink", "paper"),
    [
        ((255, 255, 0), (255, 255, 255)),
        ((200, 30, 30), (30, 30, 200)),
        ((250, 250, 250), (20, 60, 20)),
        ((120, 120, 120), (200, 200, 200)),
    ],
)
def test_any_ink_on_any_paper(
    ink: tuple[int, ...],
    paper: tuple[int, ...],
    digits: tuple[np.ndarray, np.ndarray],
    predictor: Predictor,
) -> None:
    page = robustness.drawn(digits[0][300])[..., None]
    levels = page * np.array(ink) + (1 - page) * np.array(paper)
    content = saved(Image.fromarray(np.rint(levels).astype(np.uint8)))
    assert predictor.predict(content).digit == digits[1][300]


@pytest.mark.parametrize("ink", [0, 255])
def test_transparent_is_paper(
    ink: int, digits: tuple[np.ndarray, np.ndarray], predictor: Predictor
) -> None:
    opacity = np.rint(255 * robustness.drawn(digits[0][210])).astype(np.uint8)
    levels = np.full_like(opacity, ink)
    image = Image.merge("LA", [Image.fromarray(levels), Image.fromarray(opacity)])
    assert predictor.predict(saved(image)).digit == digits[1][210]


@pytest.mark.parametrize("kind", sorted(set(image_io.SUFFIXES.values())))
def test_every_kind_of_file(
    kind: str, digits: tuple[np.ndarray, np.ndarray], predictor: Predictor
) -> None:
    page = black_on_white(digits[0][450], 131)
    assert predictor.predict(saved(page, kind)).digit == digits[1][450]


def test_the_example_is_a_photo_of_a_five() -> None:
    with Image.open(example_photo.TARGET) as file:
        shipped = np.array(file).astype(int)
    made = example_photo.photo(example_photo.written())
    assert np.abs(shipped - made).mean() < 3  # what a JPEG leaves out


def test_a_photo_on_its_side_is_turned(
    digits: tuple[np.ndarray, np.ndarray], predictor: Predictor
) -> None:
    page = black_on_white(digits[0][450])
    turned = page.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 270 degrees
    reading = predictor.predict(saved(turned, "JPEG", exif=exif))
    upright = predictor.predict(saved(page, "JPEG"))
    assert reading.digit == upright.digit
    assert np.abs(reading.probabilities - upright.probabilities).max() < 0.05


def test_a_hairline_of_a_large_drawing_is_seen(predictor: Predictor) -> None:
    page = np.full((3000, 2000), 255, np.uint8)
    page[500:2500, 1000:1006] = 0
    reading = predictor.predict(saved(Image.fromarray(page)))
    assert reading.digit == 1
    assert stroke_width(reading.stages.image > 100) > 1.5


def test_specks_and_what_comes_in_from_the_border_are_left_out(
    digits: tuple[np.ndarray, np.ndarray], predictor: Predictor
) -> None:
    page = np.array(black_on_white(digits[0][150]))
    clean = prepare(page / 255).image
    page[20:24, 20:24] = 0
    page[:, :9] = 30
    assert np.abs(prepare(page / 255).image.astype(int) - clean).mean() < 2


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float16, np.float64, bool])
def test_arrays_of_every_type_are_the_same_picture(
    kind: type, digits: tuple[np.ndarray, np.ndarray], predictor: Predictor
) -> None:
    page = np.array(black_on_white(digits[0][120])) > 127
    tops: dict[type, int] = {np.uint8: 255, np.uint16: 65_535}
    top = tops.get(kind, 1)
    reading = predictor.predict(page.astype(kind) * kind(top))
    assert reading.stages.grey.dtype == np.float32
    np.testing.assert_array_equal(reading.stages.grey, page)
    assert reading.digit == digits[1][120]
    # No larger than of a file, or a photo of many pixels would be a minute's work.
    assert max(image_io.of_array(page.repeat(4, 1)).shape) == image_io.LONGEST_SIDE


@pytest.mark.parametrize(
    ("array", "named"),
    [
        (np.zeros((1, 28, 28)), r"shape \(1, 28, 28\)"),
        (np.zeros((280, 280, 3), np.uint8), "shape"),
        (np.zeros(784), "shape"),
        (np.zeros((0, 28)), "shape"),
        (np.zeros((28, 28), np.int64), "not int64"),
        (np.zeros((28, 28), complex), "not complex128"),
        (np.full((28, 28), "7"), "not <U1"),
        (np.full((28, 28), 255.0), "from 255 to 255"),
        (np.full((28, 28), -0.5), "from -0.5 to"),
        (np.array([[0.5, np.nan]]), "from nan to nan"),
        (np.array([[0.5, np.inf]]), "from 0.5 to inf"),
    ],
)
def test_an_array_that_is_no_image_is_refused(
    array: np.ndarray, named: str, predictor: Predictor
) -> None:
    with pytest.raises(ValueError, match=named):
        predictor.predict(array)


def test_a_program_hears_nothing_but_its_answer(environment: dict[str, str]) -> None:
    program = (
        "import numpy\nfrom rnnmnist import Predictor\n"
        "print(Predictor().predict(numpy.eye(28)).looks_like_digit)"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        cwd=REPOSITORY,
        env=environment,
        text=True,
    )
    assert (finished.stdout, finished.stderr) == ("False\n", "")


@pytest.mark.parametrize("level", [0.0, 0.4, 1.0])
def test_a_blank_page_has_no_digit(level: float, predictor: Predictor) -> None:
    reading = predictor.predict(np.full((200, 300), level, np.float32))
    assert reading.stages.blank
    assert not reading.looks_like_digit
    (only,) = lines("page.png", reading)
    assert "no ink" in only


# As above: fewer images, and the same bounds.
@pytest.mark.parametrize("count", [20, pytest.param(40, marks=pytest.mark.slow)])
def test_what_is_no_digit_is_said_to_be_none(
    count: int, digits: tuple[np.ndarray, np.ndarray], predictor: Predictor
) -> None:
    """The rates over many are in docs/predict.md."""
    likeness, images = of_digits(), digits[0]
    assert (
        likeness.look_like(
            images, predictor.predict_probabilities(images)[:, -1]
        ).mean()
        > 0.95
    )
    for files, most in (
        (robustness.blank_pages(20), 0.0),
        (robustness.noises(count), 0.05),
        (robustness.photographs(count), 0.4),
        (robustness.letters(count), 0.5),
    ):
        assert (
            np.mean([predictor.predict(file).looks_like_digit for file in files])
            <= most
        )


@pytest.mark.slow
def test_what_digits_look_like_follows_from_the_embedded_images() -> None:
    for kept, made in zip(of_digits(), make_likeness.fit(), strict=True):
        np.testing.assert_array_equal(kept, made)


def test_a_reading_hangs_together(
    digits: tuple[np.ndarray, np.ndarray], predictor: Predictor
) -> None:
    reading = predictor.predict(saved(black_on_white(digits[0][77])))
    assert reading.probabilities.shape == (28, 10)
    np.testing.assert_allclose(reading.probabilities.sum(-1), 1, rtol=1e-5)
    said = reading.probabilities.argmax(-1)
    row = reading.decision_row
    assert (said[row - 1 :] == reading.digit).all()
    assert row == 1 or said[row - 2] != reading.digit
    order = reading.probabilities[-1].argsort()
    assert (reading.digit, reading.runner_up) == (order[-1], order[-2])
    assert reading.to_dict()["probability"] == reading.probabilities[-1].max()
    assert set(candidates(reading)) >= {reading.digit, reading.runner_up}
    assert [len(bar(reading, digit)) for digit in range(10)] == [28] * 10
    picture = plots.reading(reading.stages, reading.probabilities)
    with Image.open(io.BytesIO(picture)) as image:
        assert image.size[0] == 960


def test_a_trace_agrees_with_what_is_believed(
    digits: tuple[np.ndarray, np.ndarray], predictor: Predictor
) -> None:
    images = digits[0][:20]
    trace = predictor.trace(images)
    np.testing.assert_allclose(
        trace.probabilities, predictor.predict_probabilities(images), atol=1e-6
    )
    np.testing.assert_allclose(
        trace.hidden, trace.output_gate * np.tanh(trace.cell), atol=1e-5
    )
    before = np.concatenate([np.zeros_like(trace.cell[:, :1]), trace.cell[:, :-1]], 1)
    expected = trace.forget_gate * before + trace.input_gate * trace.candidate
    np.testing.assert_allclose(trace.cell, expected, atol=1e-5)
    assert (trace.entropy >= 0).all()
    assert (trace.entropy <= np.log(10) + 1e-5).all()
    single = [
        int(np.flatnonzero(said != said[-1])[-1]) + 2 if (said != said[-1]).any() else 1
        for said in trace.probabilities.argmax(-1)
    ]
    assert trace.decision_rows.tolist() == single


# The command.


@pytest.fixture
def folder(tmp_path: Path, digits: tuple[np.ndarray, np.ndarray]) -> Path:
    """Two digits and what is none."""
    black_on_white(digits[0][0]).save(tmp_path / "a zero.png")
    black_on_white(digits[0][360]).save(tmp_path / "seven.jpg")
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_predict_says_what_it_sees(folder: Path, environment: dict[str, str]) -> None:
    """In a folder, and on standard input."""
    finished = subprocess.run(
        [sys.executable, "-m", "rnnmnist.predict", folder, "-"],
        input=(folder / "a zero.png").read_bytes(),
        capture_output=True,
        cwd=REPOSITORY,
        env=environment,
    )
    assert finished.returncode == 0, finished.stderr
    output = finished.stdout.decode()
    assert "a zero.png: 0, " in output
    assert "seven.jpg: 7, " in output
    assert "\n-: 0, " in output
    assert output.count("decided after row") == 3
    assert finished.stderr == b""


def test_predict_answers_programs(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    picture = folder / "read.png"
    seven = folder / "seven.jpg"
    predict.main(["--json", f"--show={picture}", str(seven)])
    captured = capsys.readouterr()
    assert captured.err == ""
    document = json.loads(captured.out)
    assert document["file"] == str(seven)
    assert (document["digit"], document["looks_like_digit"]) == (7, True)
    assert np.shape(document["probabilities"]) == (28, 10)
    assert document["probability"] == max(document["probabilities"][-1])
    with Image.open(picture) as image:
        assert image.size[0] == 960


def bomb(side: int) -> bytes:
    """A PNG that claims to be large, and is a few bytes."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + name
            + content
            + struct.pack(">I", zlib.crc32(name + content))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows)


def test_bad_files_are_a_line_each_and_the_others_are_read(
    command: Command, folder: Path
) -> None:
    good = folder / "seven.jpg"
    bad = {
        "empty.png": b"",
        "text.png": b"not an image",
        "cut.png": (folder / "a zero.png").read_bytes()[:300],
        "bomb.png": bomb(20_000),
        "large.png": bomb(8_000),
    }
    for stem, content in bad.items():
        (folder / stem).write_bytes(content)
    names = [*(folder / name for name in bad), folder / "missing.png"]
    (folder / "none").mkdir()
    os.mkfifo(folder / "pipe.png")
    with (folder / "sparse.png").open("wb") as file:
        file.truncate(10**12)
    names += [folder / "none", folder / "pipe.png", folder / "sparse.png"]
    finished = command("predict", *names, good, PYTHONIOENCODING="latin-1")
    assert finished.returncode == 2
    assert "seven.jpg: 7, " in finished.stdout
    said = finished.stderr.splitlines()
    assert len(said) == len(names)
    for name, line in zip(names, said, strict=True):
        assert line.startswith(f"error: {name}: ")
    assert "no image" in said[names.index(folder / "none")]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "IMAGE"),
        (["--jsn", "a.png"], "--json"),
        (["--show=a.pdf", "a.png"], "--show"),
        (["--show=nowhere/a.png", "a.png"], "--show"),
        ([f"--show={'a' * 300}/a.png", "a.png"], "--show"),
        ([""], "IMAGE"),
        (["--workdir=nowhere", "a.png"], "--workdir"),
        (["--step=7", "a.png"], "--step"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], named: str) -> None:
    assert named in refused("predict", *arguments)


def test_a_mistake_ends_the_command(command: Command) -> None:
    assert "--json" in one_line_error(command("predict", "--jsn", "a.png"))


def test_two_images_are_not_shown_in_one_picture(
    command: Command, tmp_path: Path, folder: Path
) -> None:
    show = f"--show={tmp_path / 'read.png'}"
    assert "--show" in one_line_error(command("predict", show, folder))
    assert not (tmp_path / "read.png").exists()


def test_a_damaged_image_of_every_kind_is_a_user_error(
    digits: tuple[np.ndarray, np.ndarray],
) -> None:
    """Bytes changed at random: an image or a UserError, and nothing else."""
    generator = np.random.default_rng(0)
    for kind in sorted(set(image_io.SUFFIXES.values())):
        content = saved(black_on_white(digits[0][9], 60), kind)
        for _ in range(60):
            damaged = bytearray(content)
            for place in generator.integers(0, len(content), 3):
                damaged[place] = generator.integers(256)
            try:
                grey = image_io.decode(bytes(damaged), kind)
            except UserError:
                continue
            assert prepare(grey).image.shape == (28, 28)
