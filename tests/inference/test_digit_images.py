"""Predictions for image files: preprocessing and the command."""

import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import robustness
from PIL import Image, ImageDraw, ImageOps
from support import REPOSITORY, damaged, save_network, task_of

from rnnmnist import Model, load
from rnnmnist.commands import predict
from rnnmnist.config.schema import Config, DataConfig
from rnnmnist.config.tasks import Task
from rnnmnist.data import image_datasets
from rnnmnist.errors import UserError
from rnnmnist.inference import image_io
from rnnmnist.inference.preprocessing import preprocess

IMAGES, LABELS = image_datasets.embedded_images()["test"]  # 50 of each digit


@pytest.fixture(scope="module")
def model() -> Model:
    return load()


def black_on_white(image: np.ndarray, side: int = 280) -> Image.Image:
    page = np.rint(255 * (1 - robustness.upsample(image))).astype(np.uint8)
    return Image.fromarray(page).resize((side, side))


def saved(image: Image.Image, kind: str = "PNG", **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def test_preprocessing_keeps_images_of_mnist() -> None:
    images, _ = image_datasets.embedded_images()["train"]
    assert all(map(robustness.is_unchanged, np.concatenate([IMAGES, images[::8]])))


@pytest.mark.parametrize("variant", robustness.VARIANTS)
def test_variants_of_an_image_are_classified_alike(variant: str, model: Model) -> None:
    """`docs/predict.md` has accuracies over more images."""
    images = IMAGES[::50]  # one of each digit
    preprocessed = [
        robustness.preprocess_variant(image, seed, variant)[0]
        for seed, image in enumerate(images)
    ]
    expected = model.classify(images).argmax(-1)
    predicted = model.classify(np.stack(preprocessed)).argmax(-1)
    assert (predicted == expected).mean() >= 0.95


def files_of_a_digit(page: Image.Image) -> Iterator[tuple[str, bytes]]:
    """Writes the page in all modes and formats, rotated, coloured and transparent."""
    for mode in ("1", "LA", "P", "RGB"):
        yield mode, saved(page.convert(mode))
    yield "CMYK", saved(page.convert("CMYK"), "JPEG")
    yield "I;16", saved(Image.fromarray(np.asarray(page, np.uint16) * 257))
    for kind in image_io.IMAGE_FORMATS:
        yield kind, saved(page.resize((131, 131)), kind)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 270 degrees
    yield "damaged metadata", saved(page, "PNG", exif=b"Exif\0\0garbage!!")
    yield "turned", saved(page.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif)
    for on, off in ("yellow", "white"), ("#c81e1e", "#1e1ec8"):
        yield on, saved(ImageOps.colorize(page, on, off))
    for level in (0, 255):  # also of the transparent pixels, which are background
        uniform = Image.new("L", page.size, level)
        yield (
            f"opacity {level}",
            saved(Image.merge("LA", [uniform, ImageOps.invert(page)])),
        )


def test_a_digit_is_recognized_in_all_file_formats(model: Model) -> None:
    for name, content in files_of_a_digit(black_on_white(IMAGES[120])):
        prediction = model.predict(content)
        assert prediction.digit == LABELS[120], name
    digits_by_row = prediction.probabilities.argmax(-1)
    row = prediction.decision_time
    assert (digits_by_row[row - 1 :] == prediction.digit).all()
    assert digits_by_row[row - 2] != prediction.digit


def test_a_thick_zero_that_nearly_fills_an_image_keeps_its_hole() -> None:
    page = Image.new("L", (280, 280), 255)
    ImageDraw.Draw(page).ellipse((45, 35, 235, 245), outline=0, width=75)
    for levels in (np.asarray(page), 255 - np.asarray(page)):
        image = preprocess(image_io.convert_array(levels))
        assert image[14, 14] == 0
        assert image[14].max() == image[:, 14].max() == 255


@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (300, 1), (200, 300)])
def test_an_image_without_foreground_is_refused_at_any_size(
    shape: tuple[int, int],
) -> None:
    for level in (0, 0.4, 1):
        found = preprocess(np.full(shape, level))
        assert found.shape == (28, 28)
        assert not found.any()
    assert not preprocess(robustness.upsample(IMAGES[0]) / 24).any()  # almost black


def test_specks_and_components_at_the_border_are_removed() -> None:
    page = np.array(black_on_white(IMAGES[150]))
    clean = preprocess(page / 255)
    page[20:24, 20:24] = 0
    page[:, :9] = 30
    assert np.abs(preprocess(page / 255).astype(int) - clean).mean() < 2


def test_arrays_are_read_like_files(model: Model) -> None:
    page = black_on_white(IMAGES[120], 2 * image_io.MAX_SIDE)
    from_file = model.predict(saved(page)).image
    for mode in ("L", "RGB", "RGBA"):
        array = np.asarray(page.convert(mode))
        np.testing.assert_array_equal(model.predict(array).image, from_file)


@pytest.mark.parametrize(
    ("array", "named"),
    [
        (np.zeros((1, 28, 28), np.uint8), "image: cannot be read"),
        (np.zeros((28, 28)), "not float64"),
    ],
)
def test_invalid_arrays_are_refused(
    array: np.ndarray, named: str, model: Model
) -> None:
    with pytest.raises(UserError, match=named):
        model.predict(array)


@pytest.mark.parametrize(
    "task",
    [
        image_datasets.image_task(DataConfig(name="fashion_mnist")),
        # Of a user's file with this name.
        dataclasses.replace(task_of(28, 28, 10), name="mnist"),
    ],
)
def test_only_networks_for_digits_classify_pictures(task: Task, tmp_path: Path) -> None:
    name = "fashion_mnist" if task.image_shape else "files"
    config = Config().replace({"data.name": name, "model.hidden_size": 4})
    workdir = save_network(tmp_path / "run", config, task)
    with pytest.raises(UserError, match="not on"):
        load(workdir).predict(REPOSITORY / "docs" / "five.jpg")


# The command.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Returns a folder with images of two digits."""
    black_on_white(IMAGES[0]).save(tmp_path / "a zero.png")
    black_on_white(IMAGES[360]).save(tmp_path / "seven.jpg")
    return tmp_path


def test_text_output(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs are files and standard input; one terminal has no block characters."""
    zero = io.BytesIO((folder / "a zero.png").read_bytes())
    printed = io.BytesIO()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(zero))
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(printed, "latin-1"))
    predict.main([f"{folder}/a zero.png", f"{folder}/seven.jpg", "-"])
    with pytest.raises(UserError, match="-: No such file"):
        load().predict("-")  # only the command reads standard input
    output = printed.getvalue().decode("latin-1")
    assert output.startswith(f"{folder}/a zero.png: 0, ")
    assert "seven.jpg: 7, " in output
    assert "\n-: 0, " in output
    assert output.count("time steps read; decided after ") == 3


def test_unreadable_files_are_reported_and_skipped(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = {
        "empty.png": b"",
        "text.png": b"not an image",
        "sequences.csv": b"sequence,time,x\na,0,1\n",
        "cut.png": (folder / "a zero.png").read_bytes()[:300],
        "large.png": saved(Image.new("1", (13_500, 13_500))),
    }
    for name, content in bad.items():
        (folder / name).write_bytes(content)
    with (folder / "sparse.png").open("wb") as file:
        file.truncate(10**12)
    (folder / "empty").mkdir()
    names = [*bad, "missing.png", "sparse.png", "empty"]
    paths = [str(folder / name) for name in names]
    with pytest.raises(SystemExit, match=r"^2$"):
        predict.main([*paths, str(folder / "seven.jpg")])
    captured = capsys.readouterr()
    assert "seven.jpg: 7, " in captured.out
    for path, line in zip(paths, captured.err.splitlines(), strict=True):
        assert line.startswith(f"error: {path}: ")
        assert "workdir" in line or not path.endswith(".csv")


def test_a_damaged_image_is_read_or_refused() -> None:
    generator = np.random.default_rng(0)
    for kind in image_io.IMAGE_FORMATS:
        content = saved(black_on_white(IMAGES[9], 60), kind)
        for _ in range(10):
            try:
                grey = image_io.decode(io.BytesIO(damaged(content, generator)), kind)
            except UserError:
                continue
            assert preprocess(grey).shape == (28, 28)


def test_the_reference_model_is_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The current folder contains a file with the name of its folder."""
    folder = tmp_path / "a[b]"
    folder.mkdir()
    (folder / "checkpoints").touch()
    monkeypatch.chdir(folder)
    assert load().task.name == "mnist"
