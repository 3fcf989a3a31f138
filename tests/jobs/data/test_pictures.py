"""A picture is read as people see it: every kind of file against the pixels that went into it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from largebatch.jobs.data.sources.image_folder import SUFFIXES, read_picture

NOISE = np.random.default_rng(0)
COLOURS = NOISE.integers(0, 256, (6, 4, 3)).astype(np.uint8)
GREY = NOISE.integers(0, 65536, (6, 4)).astype(np.uint16)
WHITE_IS_ZERO = {262: 0}


def saved(folder: Path, name: str, image: Image.Image, **options: Any) -> str:
    path = folder / name
    image.save(path, **options)
    return str(path)


def pixels(path: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(H, W, 3) in 0 ... 1."""
    picture = read_picture(path)
    if isinstance(picture, torch.Tensor):
        return picture.permute(1, 2, 0).double().numpy()
    assert picture.mode == "RGB"
    return np.asarray(picture).astype(np.float64) / 255


@pytest.mark.parametrize("suffix", [*sorted({*SUFFIXES} - {".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".pgm"}), ".PNG"])
def test_colours_are_kept(suffix: str, tmp_path: Path) -> None:
    options = {"lossless": True} if suffix == ".webp" else {}
    assert np.array_equal(pixels(saved(tmp_path, f"x{suffix}", Image.fromarray(COLOURS), **options)), COLOURS / 255)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_sixteen_bits_of_grey(suffix: str, tmp_path: Path) -> None:
    """By PIL's own conversion to RGB all above 255 is white."""
    read = pixels(saved(tmp_path, f"x{suffix}", Image.fromarray(GREY)))
    assert np.abs(read - GREY[:, :, None].astype(np.float64) / 65535).max() < 1e-7  # float32's rounding of numbers up to 1


def test_a_tiff_whose_zero_is_white(tmp_path: Path) -> None:
    dark, light = (pixels(saved(tmp_path, f"{name}.tif", Image.fromarray(GREY), tiffinfo=tags)) for name, tags in (("a", {}), ("b", WHITE_IS_ZERO)))
    assert np.abs(dark + light - 1).max() < 2e-7


def test_eight_bits_of_grey_and_one(tmp_path: Path) -> None:
    grey = COLOURS[:, :, 0]
    assert np.array_equal(pixels(saved(tmp_path, "grey.png", Image.fromarray(grey))), np.repeat(grey[:, :, None], 3, 2) / 255)
    assert np.array_equal(pixels(saved(tmp_path, "bit.png", Image.fromarray(grey > 99)))[:, :, 1], grey > 99)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda array: array),
        (2, np.fliplr),
        (3, lambda array: np.rot90(array, 2)),
        (4, np.flipud),
        (5, lambda array: array.transpose(1, 0, 2)),
        (6, lambda array: np.rot90(array, -1)),
        (7, lambda array: np.rot90(array, 2).transpose(1, 0, 2)),
        (8, lambda array: np.rot90(array)),
    ],
)
def test_the_turn_that_a_file_asks_for_is_made_once(orientation: int, turn: Any, suffix: str, tmp_path: Path) -> None:
    bright = np.zeros((16, 24, 3), np.uint8)
    bright[:8, :8] = 255
    bright[8:, :8] = 100
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, f"x{suffix}", Image.fromarray(bright), exif=exif, quality=95)
    assert np.abs(pixels(path) - turn(bright) / 255).max() < 0.05  # JPEG and WebP are not exact


def test_what_is_transparent_lies_on_white(tmp_path: Path) -> None:
    alpha = NOISE.integers(0, 256, (6, 4)).astype(np.uint8)
    expected = (COLOURS * (alpha[:, :, None] / 255) + 255 * (1 - alpha[:, :, None] / 255)) / 255
    whole = np.dstack([COLOURS, alpha])
    assert np.abs(pixels(saved(tmp_path, "rgba.png", Image.fromarray(whole))) - expected).max() < 1.5 / 255  # rounded to 8 bits
    palette = Image.fromarray(COLOURS[:, :, 0]).convert("P")
    for name, image, clear in (
        ("palette.png", palette, palette.getpixel((1, 2))),
        ("keyed.png", Image.fromarray(COLOURS), tuple(map(int, COLOURS[2, 1]))),
    ):
        read = pixels(saved(tmp_path, name, image, transparency=clear))
        assert read[2, 1].tolist() == [1.0, 1.0, 1.0]
        assert np.array_equal(read[0, 0], np.asarray(image.convert("RGB"))[0, 0] / 255)


def test_cyan_magenta_yellow_black(tmp_path: Path) -> None:
    ink = np.zeros((6, 4, 4), np.uint8)
    ink[:, :2, 0] = 255
    read = pixels(saved(tmp_path, "x.tif", Image.fromarray(ink, "CMYK")))
    assert read[0, 0].tolist() == [0.0, 1.0, 1.0]
    assert read[0, 3].tolist() == [1.0, 1.0, 1.0]


def test_a_cameras_picture_with_its_preview_is_one(tmp_path: Path) -> None:
    image = Image.fromarray(np.full((16, 16, 3), 200, np.uint8))
    path = saved(tmp_path, "x.jpg", image, format="MPO", save_all=True, append_images=[Image.new("RGB", (16, 16))])
    assert np.abs(pixels(path) - 200 / 255).max() < 0.02


@pytest.mark.parametrize("suffix", [".gif", ".tif", ".png", ".webp"])
def test_several_pictures_in_a_file_are_refused(suffix: str, tmp_path: Path) -> None:
    frames = [Image.fromarray(np.roll(COLOURS, shift, 0)) for shift in range(3)]
    with pytest.raises(ValueError, match="it holds 3 pictures, and a sample is one"):
        read_picture(saved(tmp_path, f"x{suffix}", frames[0], save_all=True, append_images=frames[1:]))


@pytest.mark.parametrize(("dtype", "kind"), [(np.float32, "floating-point numbers"), (np.int32, "whole numbers of 32 bits")])
def test_pixels_without_a_white_are_refused(dtype: Any, kind: str, tmp_path: Path) -> None:
    """By PIL's own conversion a floating-point picture of 0 ... 1 is black."""
    with pytest.raises(ValueError, match=f"its pixels are {kind}, and which of them is white is not said"):
        read_picture(saved(tmp_path, "x.tif", Image.fromarray(COLOURS[:, :, 0].astype(dtype))))


def test_more_pixels_than_are_read_are_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(ValueError, match="it has more than 40 pixels, the most that are read; save it smaller"):
        read_picture(str(tmp_path / "large.png"))
