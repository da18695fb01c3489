"""Numbers for people: the formats that several outputs share, such as SI prefixes, shares and time
spans. A format with a single user stays with that user."""

from __future__ import annotations

import math

STEPS = ("", "k", "M", "G", "T", "P", "E")
PREFIXES = tuple(zip([10.0 ** (3 * k) for k in range(6, -5, -1)], "EPTGMk mµnp", strict=True))


def short(number: float) -> str:
    """Return a count with three digits and a suffix: 1.25G; below 1 without one: 0.0125."""
    if 0 < abs(number) < 0.995:
        return f"{number:.3g}"
    step = 0
    while abs(number) >= 999.5 and step < len(STEPS) - 1:
        number /= 1000
        step += 1
    decimals = 0 if step == 0 or abs(number) >= 99.95 else 1 if abs(number) >= 9.995 else 2
    return f"{number:.{decimals}f}{STEPS[step]}"


def digits(number: float) -> str:
    """Return a number with three digits: 12.3; from 1000 on with a suffix: 1.25k."""
    return f"{number:.3g}" if abs(number) < 999.5 else short(number)


def si(value: float, unit: str) -> str:
    """Return a quantity with three digits and an SI prefix: 226 mJ."""
    for size, prefix in PREFIXES:
        if abs(value) >= 0.9995 * size:
            scaled = value / size
            text = f"{scaled:.3g}" if scaled < 999.5 else f"{scaled:,.0f}"
            return f"{text} {prefix.strip()}{unit}"
    return f"{value:.3g} {unit}"


def gigabytes(size: float) -> str:
    """Return bytes of memory in GB with three digits: 1.5 GB."""
    return f"{size / 1e9:,.3g} GB" if size < 1e14 else f"{size:.3g} bytes"


def tick(value: float) -> str:
    """Return the number at a tick of an axis: 10, 4096, 20k, 1M, 0.01, 1e-06."""
    for step in range(len(STEPS) - 1, 0, -1):
        size = 10.0 ** (3 * step)
        if max(size, 1e4) <= value < 1e21:
            return f"{value / size:g}{STEPS[step]}"
    return f"{value:.4g}"


def cell(value: str | float) -> str:
    """Return a table cell: texts unchanged, whole numbers in full, others with four digits."""
    if isinstance(value, str):
        return value
    if math.isfinite(value) and value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"


def quantity(value: float, unit: str) -> str:
    """Return a number with its unit, singular for 1: 1,024 images, 12.3M MACs/image, 1 rank."""
    text = f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
    if isinstance(value, float) and abs(value) >= 1e4:
        text = short(value)
    if value == 1 and unit.isalpha() and len(unit) > 1:
        unit = unit.removesuffix("s")  # 1 image, 1 rank
    return f"{text} {unit}".rstrip()


def percent(share: float | None) -> str:
    """Return a share as a percentage, 82.3%, and "-" for None."""
    return "-" if share is None else f"{100 * share:.1f}%"


def accuracy_text(share: float) -> str:
    """Return an accuracy as a percentage: 0.98765 is 98.77%. Only exactly 1 is 100.00%."""
    return f"{min(share, 0.9999) if share < 1 else 1.0:.2%}"


def points_text(change: float) -> str:
    """Return a change of an accuracy in percentage points: -0.0012 is -0.12 points."""
    return f"{100 * change:+z.2f} points"


def duration(seconds: float) -> str:
    """Return a time span: 9 s, 1:05, 2:01:05."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, seconds = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
