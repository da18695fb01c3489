"""NumPy's convolutions: threads that share them, and products cut into pieces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tallygrad.autograd import get_num_threads, set_num_threads
from tallygrad.autograd.ops import conv, correlation, windows
from tallygrad.autograd.threads import share

# Images, channels, filters, groups, size, taps, stride, padding: patches of long and of short runs,
# stripes, one tap, one filter for each channel, groups, and images that lose much of their size.
CASES = {
    "stripes": (32, 12, 10, 1, 9, 3, 1, 1),
    "strided": (32, 12, 10, 1, 9, 3, 2, 1),
    "short": (32, 2, 10, 1, 9, 3, 1, 1),
    "tap": (32, 24, 10, 1, 9, 1, 1, 0),
    "apart": (32, 24, 10, 1, 9, 1, 2, 0),
    "groups": (32, 24, 20, 2, 9, 3, 1, 1),
    "depthwise": (32, 24, 24, 24, 9, 3, 1, 1),
    "shrinking": (32, 12, 10, 1, 9, 5, 1, 0),
}


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    before = get_num_threads()
    yield
    set_num_threads(before)


def results(case: str, dtype: str = "float32") -> list[np.ndarray]:
    """Return y, dx and dw of a case."""
    n, c, m, groups, size, taps, stride, pad = CASES[case]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, size, size, c)).astype(dtype).transpose(0, 3, 1, 2)
    w = rng.standard_normal((m, c // groups, taps, taps)).astype(dtype)
    attrs: dict[str, Any] = {
        "stride": (stride, stride),
        "padding": ((pad, pad), (pad, pad)),
        "dilation": (1, 1),
        "groups": groups,
    }
    y = conv.conv2d.reference(x, w, **attrs)
    dy = rng.standard_normal(y.shape).astype(dtype)
    return [
        y,
        conv.conv2d_dx.reference(dy, w, size=(size, size), **attrs),
        conv.conv2d_dw.reference(x, dy, size=(taps, taps), **attrs),
    ]


@pytest.mark.parametrize("case", CASES)
def test_threads_do_not_change_a_bit(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "BLOCK_BYTES", 1 << 13)
    monkeypatch.setattr(correlation, "WORTHWHILE", 1 << 12)
    monkeypatch.setattr(correlation, "MIN_WINDOWS", 1 << 8)
    shared = []

    def counted(parts: int, work: Any) -> None:
        shared.append(parts)
        share(parts, work)

    monkeypatch.setattr(correlation, "share", counted)
    set_num_threads(1)
    expected = results(case)
    assert len(shared) >= 3 and min(shared) > 1
    for threads in (2, 3):
        set_num_threads(threads)
        for a, b in zip(results(case), expected, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("case", CASES)
def test_small_calls_are_not_shared(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correlation, "share", None)
    results(case)


@pytest.mark.parametrize("case", CASES)
def test_pieces_of_products_add_up(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen with pieces of some 70 to 250 windows, of which the last is shorter, and with none."""
    expected = results(case, "float64")
    monkeypatch.setattr(correlation, "SMALL", 80 * 12 * 3 * 10)
    for a, b in zip(results(case, "float64"), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
