"""Augmentation against loops over single pixels, and its independence of the batch's composition."""

import itertools
import math
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from largebatch.jobs.data.augment import augment, augments
from largebatch.jobs.spec.model_and_data import AugmentSpec

CHANNELS, HEIGHT, WIDTH = 2, 4, 5
Image = list[list[list[int]]]


def numbered(num_samples: int) -> Tensor:
    """Images in which no two pixels are alike and none is black."""
    count = CHANNELS * HEIGHT * WIDTH
    return (1 + torch.arange(count) + torch.arange(num_samples)[:, None]).reshape(num_samples, CHANNELS, HEIGHT, WIDTH).to(torch.uint8)


def changed(images: Tensor, epoch: int = 0, seed: int = 0, indices: Tensor | None = None, **options: Any) -> Tensor:
    return augment(images, torch.arange(len(images)) if indices is None else indices, epoch, seed, AugmentSpec(**options))


def moved(image: Image, down: int, right: int, flip: bool) -> Image:
    """One image, flipped and then moved, pixel by pixel; black moves in."""
    out = [[[0] * WIDTH for _ in range(HEIGHT)] for _ in range(CHANNELS)]
    for c, row, column in itertools.product(range(CHANNELS), range(HEIGHT), range(WIDTH)):
        from_row, from_column = row - down, column - right
        if 0 <= from_row < HEIGHT and 0 <= from_column < WIDTH:
            out[c][row][column] = image[c][from_row][WIDTH - 1 - from_column if flip else from_column]
    return out


def blanked(image: Image, top: int, left: int, side: int) -> Image:
    """One image with a square set to black; the part of it that lies outside is ignored."""
    out = [[row[:] for row in channel] for channel in image]
    for c, row, column in itertools.product(range(CHANNELS), range(HEIGHT), range(WIDTH)):
        if top <= row < top + side and left <= column < left + side:
            out[c][row][column] = 0
    return out


def assert_even(counts: Counter[Any], num_outcomes: int) -> None:
    """Every outcome, about equally often: within five deviations of a binomial's count."""
    total = sum(counts.values())
    expected = total / num_outcomes
    assert len(counts) == num_outcomes
    assert all(abs(count - expected) < 5 * math.sqrt(expected) for count in counts.values()), counts


@pytest.mark.parametrize("flip", ["none", "random"])
@pytest.mark.parametrize("reach", [0, 1, 2])
def test_translate_and_flip(flip: str, reach: int) -> None:
    images = numbered(600)
    results = changed(images, horizontal_flip=flip, translate=reach).tolist()
    flips = [False, True] if flip == "random" else [False]
    moves = list(itertools.product(range(-reach, reach + 1), range(-reach, reach + 1), flips))
    counts: Counter[Any] = Counter()
    for image, result in zip(images.tolist(), results, strict=True):
        explained = [move for move in moves if moved(image, *move) == result]
        assert len(explained) == 1, "each sample is moved by one of the shifts, whole"
        counts[explained[0]] += 1
    assert_even(counts, len(moves))


@pytest.mark.parametrize("side", [1, 2, 3])
def test_cutout(side: int) -> None:
    images = numbered(600)
    results = changed(images, cutout=side).tolist()
    centres: Counter[Any] = Counter()
    for image, result in zip(images.tolist(), results, strict=True):
        matches = [
            (row, column)
            for row, column in itertools.product(range(HEIGHT), range(WIDTH))
            if blanked(image, row - side // 2, column - side // 2, side) == result
        ]
        assert len(matches) == 1, "one square, around a centre within the image"
        centres[matches[0]] += 1
    assert_even(centres, HEIGHT * WIDTH)


def test_a_hole_larger_than_the_image_blanks_it() -> None:
    assert not changed(numbered(3), cutout=2 * WIDTH).any()


def test_alternating_flips_every_image_every_other_epoch() -> None:
    images = numbered(400)
    epochs = [changed(images, epoch, horizontal_flip="alternating") for epoch in range(4)]
    flipped = [(result == images.flip(3)).flatten(1).all(1) for result in epochs]
    plain = [(result == images).flatten(1).all(1) for result in epochs]
    for epoch in range(4):
        assert torch.equal(flipped[epoch], ~plain[epoch])
        assert torch.equal(flipped[epoch], flipped[0] ^ bool(epoch % 2))
    # About half begin flipped: within five deviations of a binomial's.
    assert abs(int(flipped[0].sum()) - 200) < 5 * 10


ALL: dict[str, Any] = {"horizontal_flip": "random", "translate": 2, "cutout": 2}


@pytest.mark.parametrize("options", [ALL, {"horizontal_flip": "alternating"}, {"translate": 1}, {"cutout": 3}], ids=str)
def test_the_batchs_composition_does_not_matter(options: dict[str, Any]) -> None:
    images = numbered(50)
    whole = changed(images, 3, 1, **options)
    for chosen in ([17], [4, 3, 2], [49, 0, 17, 17], list(range(0, 50, 7))):
        indices = torch.tensor(chosen)
        assert torch.equal(changed(images[indices], 3, 1, indices, **options), whole[indices])


@pytest.mark.parametrize("options", [{"horizontal_flip": "random"}, {"translate": 2}, {"cutout": 2}], ids=str)
def test_epoch_and_seed_draw_anew(options: dict[str, Any]) -> None:
    images = numbered(200)
    results = [changed(images, epoch, seed, **options) for epoch, seed in ((0, 0), (1, 0), (0, 1))]
    for images, other in itertools.combinations(results, 2):
        same = (images == other).flatten(1).all(1).sum()
        assert same < 140, "flips agree half of the time, shifts and holes more seldom"


def test_rows_and_columns_are_drawn_apart() -> None:
    # A black image with one white pixel in the middle shows its shift.
    images = torch.zeros(500, 1, 9, 9, dtype=torch.uint8)
    images[:, :, 4, 4] = 1
    places = torch.nonzero(changed(images, translate=4))[:, 2:].double()
    assert len(places) == 500
    correlation = torch.corrcoef(places.T)[0, 1]
    assert abs(correlation.item()) < 5 / math.sqrt(500)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_shape_and_dtype_stay_and_the_input_is_not_changed(dtype: torch.dtype) -> None:
    images = numbered(6).to(dtype)
    held = images.clone()
    result = changed(images, **ALL)
    assert (result.shape, result.dtype) == (images.shape, dtype)
    assert torch.equal(images, held)
    assert not torch.equal(result, held)


def test_nothing_asked_nothing_done() -> None:
    images = numbered(3)
    assert not augments(AugmentSpec())
    assert torch.equal(changed(images), images)
    for options in ({"horizontal_flip": "random"}, {"horizontal_flip": "alternating"}, {"translate": 1}, {"cutout": 1}):
        assert augments(AugmentSpec(**options))
