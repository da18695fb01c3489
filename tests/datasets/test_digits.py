"""The drawn digits, and the constants of the real sets against the real files."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import numpy as np
import pytest

from tallygrad.datasets import DataError, ImageDataset, load, names
from tallygrad.datasets.sets import digits
from tallygrad.datasets.sets.glyphs import GLYPHS, MOST_POINTS, STAMPS, outlines
from tallygrad.datasets.source import assemble


@pytest.fixture(scope="module")
def test_split() -> ImageDataset:
    images, labels = digits.draw("test", 0)
    return assemble("digits", "test", images[:, None], labels, digits.FACTS)


def test_names() -> None:
    assert names() == ("digits", "mnist", "fashion-mnist", "cifar10", "cifar100")


def test_sizes_and_form(test_split: ImageDataset) -> None:
    assert (test_split.name, test_split.split, len(test_split)) == ("digits", "test", 10_000)
    assert digits.SIZES == {"train": 60_000, "test": 10_000}
    assert test_split.images.shape == (10_000, 1, 28, 28) and test_split.images.dtype == np.uint8
    assert test_split.labels.dtype == np.int64 and test_split.classes == tuple("0123456789")
    counts = np.bincount(test_split.labels, minlength=10)
    assert len(counts) == 10 and abs(counts - 1000).max() < 150
    assert abs(np.diff(np.bincount(test_split.labels[:1000], minlength=10))).max() < 80


def test_mean_and_std(test_split: ImageDataset) -> None:
    pixels = test_split.images / 255
    assert pixels.mean() == pytest.approx(test_split.mean[0], abs=5e-4)
    assert pixels.std() == pytest.approx(test_split.std[0], abs=5e-4)


def draw_bytes(seed: int, split: str, chunk: int) -> tuple[bytes, bytes]:
    images, labels = digits.draw_chunk(outlines(), seed, split, chunk)
    return images.tobytes(), labels.tobytes()


def test_same_seed_same_bytes(test_split: ImageDataset) -> None:
    late = draw_bytes(0, "test", 7)
    rows = slice(7 * digits.CHUNK, 8 * digits.CHUNK)
    assert late == (test_split.images[rows].tobytes(), test_split.labels[rows].tobytes())
    drawn = [draw_bytes(seed, split, chunk) for seed in (0, 5) for split in ("train", "test")
             for chunk in (0, 1)]  # fmt: skip
    assert len(set(drawn)) == 8


def test_pinned_bytes(test_split: ImageDataset) -> None:
    """The set must not change between versions or machines: accuracies are compared over it."""
    digest = hashlib.sha256(test_split.images.tobytes() + test_split.labels.tobytes())
    assert digest.hexdigest() == digits.SHA256["test"]
    first = hashlib.sha256(b"".join(draw_bytes(0, "train", 0))).hexdigest()
    assert first == "8853299071469b62a44ef6cf769a6e220a8d64d1dc5860fe90a96d3b29deac3a"


def test_bad_arguments() -> None:
    with pytest.raises(DataError, match="split: expected one of train, test, got 'valid'"):
        digits.load_digits("valid")
    with pytest.raises(DataError, match="--seed: expected 0 to 18446744073709551615, got -3"):
        load("digits", "test", seed=-3)


def test_digits_need_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(digits.SIZES, "test", 2 * digits.CHUNK)
    assert len(load("digits", "test", tmp_path, download=False)) == 2 * digits.CHUNK
    assert list(tmp_path.iterdir()) == []


def test_the_drawn_set_is_kept_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, test_split: ImageDataset
) -> None:
    calls: list[int] = []
    real = digits.draw

    def counted(split: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
        calls.append(seed)
        return real(split, seed)

    monkeypatch.setattr(digits, "draw", counted)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = tmp_path / "tallygrad" / "digits" / "test.bin"

    def same() -> bool:
        found = load("digits", "test")
        pairs = (found.images, test_split.images), (found.labels, test_split.labels)
        return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in pairs)

    assert same() and same() and calls == [0]
    kept = path.read_bytes()
    for damaged in (b"", kept[:-8], kept[:100] + b"\0\1" + kept[102:]):
        path.write_bytes(damaged)
        assert same() and path.read_bytes() == kept
    assert calls == [0] * 4
    load("digits", "test", seed=1)
    load("digits", "test", seed=1)
    assert calls[4:] == [1, 1] and [*path.parent.iterdir()] == [path]
    monkeypatch.setenv("XDG_CACHE_HOME", str(path))  # a file: nothing can be kept there
    assert same() and calls[6:] == [0]


def test_drawing_is_quick() -> None:
    """One chunk of 140; 70,000 digits must take less than 10 s of one core."""
    shapes = outlines()
    start = time.process_time()
    for chunk in range(4):
        digits.draw_chunk(shapes, 0, "train", chunk)
    assert (time.process_time() - start) / 4 * 140 < 20


def test_sums_of_stamps_are_exact() -> None:
    """No sum may reach 2^24, up to which float32 holds every integer."""
    heaviest = int(digits.LEVELS * digits.HEAVIEST) * digits.LEVELS
    assert heaviest * (STAMPS + digits.STRAY) < 2**24
    rng = np.random.default_rng(0)
    shape = (digits.CHUNK, STAMPS + digits.STRAY)
    x, y = rng.uniform(4, 24, shape), rng.uniform(4, 24, shape)
    weight, radius = rng.uniform(0, 3, shape), np.full((digits.CHUNK, 1), 2.0)
    forward = digits._stamp(x, y, weight, radius)
    backward = digits._stamp(x[:, ::-1], y[:, ::-1], weight[:, ::-1], radius)
    assert forward.tobytes() == backward.tobytes() and forward.max() > 0.5


def test_line_is_drawn_where_it_runs() -> None:
    """A straight line of stamps inks its own row by 1 and nothing a radius away from it."""
    shape = (digits.CHUNK, STAMPS)
    x = np.broadcast_to(np.linspace(-2, 29, STAMPS), shape)
    y, weight = np.full(shape, 10.0), np.full(shape, 31 / (STAMPS - 1))
    ink = digits._stamp(x, y, weight, np.full((digits.CHUNK, 1), 2.0))[0]
    np.testing.assert_allclose(ink[10], 1, atol=0.03)
    assert ink[9, 5] == pytest.approx((1 - 0.25) ** 2, abs=0.03)
    assert not ink[:9].any() and not ink[12:].any()


def test_glyphs() -> None:
    shapes = outlines()
    assert [glyph.digit for glyph in GLYPHS] == sorted(glyph.digit for glyph in GLYPHS)
    assert min(shapes.number) >= 3 and shapes.number.sum() == len(GLYPHS)
    for i, glyph in enumerate(GLYPHS):
        assert len(glyph.points) <= MOST_POINTS
        assert set(sum(glyph.strokes, ())) == set(range(len(glyph.points)))
        assert (shapes.inside[i] == 0).sum() == len(glyph.strokes)
        np.testing.assert_allclose(shapes.basis[:, i].sum(axis=0), 1)
    for digit in range(10):
        chosen = shapes.choose(np.full(1000, digit), np.linspace(0, 1, 1000, endpoint=False))
        assert {GLYPHS[k].digit for k in chosen} == {digit}
        assert len(set(chosen.tolist())) == shapes.number[digit]


def test_curves_run_through_their_points() -> None:
    shapes = outlines()
    for i, glyph in enumerate(GLYPHS):
        x = (shapes.basis[:, i] * shapes.x[i, :, None]).sum(axis=0)
        y = (shapes.basis[:, i] * shapes.y[i, :, None]).sum(axis=0)
        for px, py in glyph.points:
            assert np.hypot(x - px, y - py).min() < 0.1, (glyph, px, py)


def test_hard_for_a_linear_rule_but_not_random(test_split: ImageDataset) -> None:
    """The nearest class mean gets some, far from most: digits vary as handwriting does."""
    pixels = test_split.images.reshape(10_000, -1) / 255
    seen, unseen = slice(0, 8000), slice(8000, None)
    means = np.stack(
        [pixels[seen][test_split.labels[seen] == digit].mean(axis=0) for digit in range(10)]
    )
    distance = (means * means).sum(axis=1) - 2 * pixels[unseen] @ means.T
    accuracy = (distance.argmin(axis=1) == test_split.labels[unseen]).mean()
    assert 0.4 < accuracy < 0.8


REAL = os.environ.get("TALLYGRAD_DATA")


def real(name: str, split: str) -> ImageDataset:
    if not REAL:
        pytest.skip("TALLYGRAD_DATA is not set: no real data to compare with")
    try:
        return load(name, split, REAL, download=False)
    except DataError as error:
        if "not found" in str(error):
            pytest.skip(f"no {name} in TALLYGRAD_DATA={REAL}")
        raise


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10", "cifar100"])
def test_real_data(name: str) -> None:
    train = real(name, "train")
    test = real(name, "test")
    assert (len(train), len(test)) == ((60_000 if "mnist" in name else 50_000), 10_000)
    classes = len(train.classes)
    assert np.bincount(test.labels, minlength=classes).min() > 0.8 * 10_000 / classes
    pixels = train.images.transpose(1, 0, 2, 3).reshape(train.input_shape[0], -1)
    values = np.arange(256) / 255
    for channel, mean, std in zip(pixels, train.mean, train.std, strict=True):
        counts = np.bincount(channel, minlength=256) / channel.size
        found = (counts * values).sum()
        assert found == pytest.approx(mean, abs=6e-4)
        spread = np.sqrt((counts * (values - found) ** 2).sum())
        assert spread == pytest.approx(std, abs=1.5e-3)
