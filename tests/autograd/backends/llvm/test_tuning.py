"""Choosing tiles by timing: what is compared, what is kept, and that ranks agree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import backends, context
from tallygrad.autograd.array import Spec
from tallygrad.autograd.dtypes import BFLOAT16
from tallygrad.autograd.ops import conv
from tallygrad.datasets import ImageDataset, Loader
from tallygrad.trainer import build
from tallygrad.trainer.distributed.comm import SerialComm
from tallygrad.trainer.tasks.classification import Classification

pytest.importorskip("llvmlite", reason="llvmlite is not installed")

from tallygrad.autograd.backends.llvm import tuning
from tallygrad.autograd.backends.llvm.compiler import cache, jit
from tallygrad.autograd.backends.llvm.compiler.isa import targets
from tallygrad.autograd.backends.llvm.kernels.conv_direct import ConvTile
from tallygrad.autograd.backends.llvm.plans import conv_tiles, conv_tiles_weights
from tallygrad.autograd.backends.llvm.registry import find, find_tiled
from tallygrad.autograd.backends.llvm.tuning import Choice, Tuner

PLAIN = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}
STRIDED = {**PLAIN, "stride": (2, 1), "groups": 2}
GUESS = targets.target()


def arrays(name: str, attributes: dict[str, Any]) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Return what a primitive is called with: ragged rows, channels that fill no vector."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((3, 18, 11, 9)).astype(np.float32)
    w = rng.standard_normal((20, 18 // attributes["groups"], 3, 3)).astype(np.float32)
    if name == "conv2d":
        return [x, w], attributes
    y = conv.conv2d.reference(x, w, **attributes)
    dy = rng.standard_normal(y.shape).astype(np.float32)
    extra = {"size": (11, 9) if name == "conv2d_dx" else (3, 3)}
    return [dy, w] if name == "conv2d_dx" else [x, dy], {**attributes, **extra}


def specs(given: list[np.ndarray]) -> tuple[Spec, ...]:
    return tuple(Spec(a.shape, a.dtype) for a in given)


@pytest.mark.slow
@pytest.mark.parametrize("width", targets.available())
@pytest.mark.parametrize("attributes", [PLAIN, STRIDED])
@pytest.mark.parametrize("name", tuning.TUNED)
def test_every_choice_gives_the_same_numbers(
    name: str, attributes: dict[str, Any], width: str
) -> None:
    given, asked = arrays(name, attributes)
    expected = getattr(conv, name).reference(*[a.astype(np.float64) for a in given], **asked)
    for method in ("direct", "winograd", "winograd2"):
        for varied in ((), *tuning.FAST, *tuning.MORE):
            target = replace(targets.target(width), convolution=method, varied=varied)
            kernel = find(target, name, specs(given), asked)
            assert kernel is not None
            error = np.abs(kernel(*given) - expected).max() / np.abs(expected).max()
            assert error < 1e-4, (method, varied)


def test_tiles_are_varied_by_factors_and_never_vanish() -> None:
    varied = replace(GUESS, varied=(("unroll", 2.0), ("rows", 0.1), ("tiles", 3.0)))
    tile = ConvTile(2, 8, 1, 3, 4, 16)
    assert varied.vary(tile) == tile._replace(unroll=8, rows=1)
    assert varied.bare == GUESS and GUESS.vary(tile) == tile


class Clock:
    """Time that only kernels spend."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: dict[Choice, float]) -> None:
        self.now, self.seconds = 0.0, seconds
        self.planned: list[Choice] = []
        monkeypatch.setattr(tuning, "perf_counter", lambda: self.now)
        monkeypatch.setattr(tuning, "find_fastest", self.find)

    def find(self, target: targets.Target, *_: Any) -> Any:
        choice = Choice(target.convolution, target.varied)
        self.planned.append(choice)

        def kernel(*_: Any) -> None:
            self.now += self.seconds.get(choice, 1.0)

        return kernel


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the folder of an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache.opened.cache_clear()
    yield tmp_path
    cache.opened.cache_clear()


def fit(tuner: Tuner, name: str = "conv2d", attributes: dict[str, Any] = PLAIN) -> Choice:
    given, asked = arrays(name, attributes)
    target = tuner.fit(name, specs(given), asked)
    return Choice(target.convolution, target.varied)


@pytest.mark.usefixtures("empty")
def test_the_fastest_is_chosen_and_the_guess_unless_it_is_clearly_slower(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    half = Choice("winograd", (("images", 0.5),))
    Clock(monkeypatch, {Choice("winograd", ()): 0.8, half: 0.5})
    assert fit(Tuner(GUESS, "fast")) == half
    Clock(monkeypatch, {Choice("direct", ()): 0.98})
    assert fit(Tuner(GUESS, "fast"), "conv2d_dx") == Choice("auto", ())
    # `full` goes on from there, and sees what two steps give.
    both = Choice("winograd", (("images", 0.5), ("unroll", 2.0)))
    clock = Clock(monkeypatch, {half: 0.5, both: 0.1, Choice("winograd", ()): 0.9})
    assert fit(Tuner(GUESS, "full"), "conv2d_dw") == both
    assert len(clock.planned) > 30
    # Neither strided calls nor a method that was asked for leave a choice of methods.
    for target, attributes in ((GUESS, STRIDED), (replace(GUESS, convolution="direct"), PLAIN)):
        clock = Clock(monkeypatch, {})
        fit(Tuner(target, "fast"), attributes=attributes)
        assert {choice.convolution for choice in clock.planned} == {target.convolution}


def test_choices_are_kept_and_found_again(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half = Choice("direct", (("images", 0.5),))
    Clock(monkeypatch, {half: 0.2, Choice("direct", ()): 0.3})
    assert fit(Tuner(GUESS, "fast")) == half
    clock = Clock(monkeypatch, {})
    assert fit(Tuner(GUESS, "fast")) == half and not clock.planned
    assert fit(Tuner(GUESS, "full")) == Choice("auto", ()) and clock.planned
    for path in (empty / "tallygrad" / "kernels").iterdir():
        path.write_bytes(b"damaged")
    assert fit(Tuner(GUESS, "fast")) == Choice("auto", ())


@pytest.mark.usefixtures("empty")
def test_whoever_adopts_choices_makes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    half = Choice("direct", (("images", 0.5),))
    Clock(monkeypatch, {half: 0.2, Choice("direct", ()): 0.3})
    first, other = Tuner(GUESS, "fast"), Tuner(GUESS, "fast")
    fit(first)
    clock = Clock(monkeypatch, {})
    other.adopt(first.dump())
    assert fit(other) == half
    assert fit(other, "conv2d_dx") == Choice("auto", ()) and not clock.planned
    assert fit(Tuner(GUESS, "off")) == Choice("auto", ()) and not clock.planned


tiles = pytest.mark.skipif(
    BFLOAT16 is None or "avx512" not in targets.available(),
    reason="tiles are emulated with AVX-512",
)


@tiles
def test_no_choice_of_tiles_changes_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    rng, kernels, calls = np.random.default_rng(0), [], []

    def build(*parameters: Any) -> Any:
        function = jit.build(*parameters)

        def call(*arguments: Any) -> None:
            calls.append(parameters)
            function(*arguments)

        kernels.append(parameters[0:1] + parameters[2:])
        return call

    for plans in (conv_tiles, conv_tiles_weights):
        monkeypatch.setattr(plans, "build", build)
    # So many images that not all of them go through all weights at a time.
    images, filters, dy = (900, 16, 3, 3), (12, 16, 1, 2), (900, 12, 3, 2)
    attributes = {**PLAIN, "padding": ((0, 0), (0, 0))}
    for name, shapes, asked in (
        ("conv2d", (images, filters), attributes),
        ("conv2d_dw", (images, dy), {**attributes, "size": (1, 2)}),
        ("linear", ((1400, 64), (80, 64)), {}),
    ):
        given, found, ways = [rng.standard_normal(s).astype(BFLOAT16) for s in shapes], set(), set()
        for varied in ((), *tuning.TILES_FAST, *tuning.TILES_MORE):
            target = replace(targets.target(tiles="emulated"), varied=varied)
            kernels.clear(), calls.clear()
            kernel = find_tiled(target, name, specs(given), asked)
            assert kernel is not None
            found.add(kernel(*given).tobytes())
            ways.add((repr(kernels), len(calls)))
        assert len(found) == 1 and len(ways) >= 3


@tiles
@pytest.mark.usefixtures("empty")
def test_bfloat16_by_tiles_is_tuned_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    emulated = targets.target(tiles="emulated")
    one = tuning.TILES_FAST[0]
    clock = Clock(monkeypatch, {Choice("auto", one): 0.5})
    narrow, wide = ((Spec((64, 64), np.dtype(t)),) * 2 for t in (BFLOAT16, np.float32))
    assert Tuner(emulated, "fast").fit("linear", narrow, {}).varied == one
    assert {choice.convolution for choice in clock.planned} == {"auto"}
    # Neither float32 nor targets without tiles have such choices, nor have products too small.
    for target, pair in ((emulated, wide), (targets.target(tiles="off"), narrow)):
        assert Tuner(target, "fast").fit("linear", pair, {}) == target
    small = (Spec((4, 64), np.dtype(BFLOAT16)),) * 2
    assert Tuner(emulated, "fast").fit("linear", small, {}) == emulated
    # Convolutions by tiles have no other method, unless tiles are a method among others.
    images = tuple(s._replace(dtype=np.dtype(BFLOAT16)) for s in specs(arrays("conv2d", PLAIN)[0]))
    clock.planned.clear()
    assert Tuner(emulated, "fast").fit("conv2d", images, PLAIN).varied == one
    assert {choice.convolution for choice in clock.planned} == {"auto"}
    if "+avx512bf16" in emulated.features.split(","):
        clock.planned.clear()
        Tuner(targets.target(tiles="dot"), "fast").fit("conv2d", images, STRIDED | {"groups": 1})
        assert {choice.convolution for choice in clock.planned} == {"auto", "direct"}


class SecondRank(SerialComm):
    """Gets what the first rank chose."""

    rank = 1

    def __init__(self, sent: bytes) -> None:
        super().__init__()
        self.sent = sent

    def bcast_bytes(self, data: bytes, root: int = 0) -> bytes:
        assert not data
        return self.sent


@pytest.mark.slow
@pytest.mark.usefixtures("empty")
def test_one_rank_tunes_before_the_training_and_all_take_its_choices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tuning, "SECONDS", 0.0)
    monkeypatch.setattr(backends, "_loaded", {})
    pixels = np.zeros((20, 1, 28, 28), np.uint8)
    classes = tuple("0123456789")
    digits = ImageDataset(
        "digits", "train", pixels, np.zeros(20, np.int64), classes, (0.1,), (0.3,)
    )
    data = build.Data(Loader(digits, 7, micro_batches=2), Loader(digits, 20, shuffle=False))
    model = build.create_model("lenet", digits, np.float32)
    before = [p.numpy().copy() for p in model.parameters()]
    build.tune("llvm:auto,tune=fast", SerialComm(), model, Classification(), data)
    assert all(p.grad is None for p in model.parameters())
    for p, numbers in zip(model.parameters(), before, strict=True):
        np.testing.assert_array_equal(p.numpy(), numbers)
    tuner = backends.get("llvm:auto,tune=fast").tuner  # type: ignore[attr-defined]
    # Two layers, forward for 4, 3 and 20 images, backward for 4 and 3, but dx of the second alone.
    assert len(tuner.choices) == 2 * 3 + 2 * 2 + 2 and not tuner.open
    sent = tuner.dump()
    monkeypatch.setattr(backends, "_loaded", {})
    build.tune("llvm:auto,tune=fast", SecondRank(sent), model, Classification(), data)
    other = backends.get("llvm:auto,tune=fast").tuner  # type: ignore[attr-defined]
    assert other.choices == tuner.choices and not other.open
    assert "llvm:auto,tune=fast,dry" not in backends._loaded


def test_a_dry_backend_has_no_numbers() -> None:
    x = ag.zeros(2, 3, 5, 5)
    with context.using(backend="llvm:dry", ledger=ag.Ledger()):
        y = ag.conv2d(x, ag.zeros(4, 3, 3, 3))
    assert y.shape == (2, 4, 3, 3)
    with pytest.raises(RuntimeError, match="expected a tensor with numbers"):
        y.numpy()


def test_unknown_levels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected options .*, got 'tune=much'"):
        backends.get("llvm:tune=much")
