"""What values of options stand for that are written as text."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from datetime import time as datetime_time
from itertools import pairwise
from math import inf

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_size(text: str) -> int:
    """Return the bytes that `500`, `500MB` or `2GB` stands for. ValueError for others."""
    digits = text.upper().removesuffix("B").strip()
    unit = {"M": 1e6, "G": 1e9}.get(digits[-1:], 0)
    size = float(digits[:-1] if unit else digits) * (unit or 1e6)
    if not 0 <= size < 2**60:
        raise ValueError(f"size: expected less than 2^60 bytes, got {text}")
    return int(size)


def parse_hash(text: str) -> str:
    """Return the first digits of a hash, "any" or "". ValueError for others."""
    if text not in ("", "any") and not re.fullmatch("[0-9a-f]{8,64}", text):
        raise ValueError(f"expected hexadecimal digits, got {text}")
    return text


def parse_every(text: str) -> int:
    """Return K of `every=K`, at least 1, and 0 for `off`. ValueError for others."""
    name, _, digits = text.partition("=")
    every = int(digits) if name == "every" and digits.isascii() and digits.isdigit() else 0
    if every < 1 and text != "off":
        raise ValueError(f"expected off or every=K, got {text}")
    return every


def parse_betas(text: str) -> tuple[float, float]:
    """Return the numbers of `0.9,0.999`, each in [0, 1). ValueError for others."""
    return _pair(text, lambda x, y: 0 <= x < 1 and 0 <= y < 1)


def parse_etas(text: str) -> tuple[float, float]:
    """Return the numbers of `0.5,1.2`, below and above 1. ValueError for others."""
    return _pair(text, lambda x, y: 0 < x < 1 < y < inf)


def parse_step_sizes(text: str) -> tuple[float, float]:
    """Return the numbers of `1e-6,50`, the smaller one first. ValueError for others."""
    return _pair(text, lambda x, y: 0 <= x <= y)


def parse_adjust_lr_fn(text: str) -> str:
    """Return the name of a scale of Muon's steps. ValueError for others."""
    if text not in ("original", "match_rms_adamw"):
        raise ValueError(f"expected original or match_rms_adamw, got {text}")
    return text


def _pair(text: str, holds: Callable[[float, float], bool]) -> tuple[float, float]:
    x, y = map(float, text.split(","))
    if not holds(x, y):
        raise ValueError(f"expected other numbers, got {text}")
    return x, y


def parse_lookahead(text: str) -> tuple[int, float, float] | None:
    """Return the numbers of `5,0.5` or `5,0.2,3`: at least 1, in [0, 1], and at least 0, which is
    0 where it is missing; None for `off`. ValueError for others."""
    if text == "off":
        return None
    first, second, third = (text if text.count(",") > 1 else f"{text},0").split(",")
    steps, share, power = int(first), float(second), float(third)
    if steps < 1 or not 0 <= share <= 1 or not 0 <= power < inf:
        raise ValueError(f"expected at least 1, a share in [0, 1] and a power, got {text}")
    return steps, share, power


def parse_milestones(text: str) -> tuple[int, ...]:
    """Return the numbers of `30,60`, which rise from at least 1. ValueError for others."""
    numbers = tuple(map(int, text.split(",")))
    if numbers[0] < 1 or any(a >= b for a, b in pairwise(numbers)):
        raise ValueError(f"expected rising numbers, got {text}")
    return numbers


def parse_signals(text: str) -> tuple[int, ...]:
    """Return the numbers of signals such as `TERM,USR1`. ValueError for others, and for those that
    cannot be handled or that tell of faults."""
    names = [name.strip().upper().removeprefix("SIG") for name in text.split(",")]
    allowed = ("TERM", "USR1", "USR2", "HUP", "INT", "ALRM", "XCPU", "CONT", "URG", "WINCH")
    if not set(names) <= set(allowed):
        raise ValueError(f"expected some of {', '.join(allowed)}")
    return tuple(int(getattr(signal, f"SIG{name}")) for name in names)


def parse_time(text: str, env: Mapping[str, str] = os.environ) -> float:
    """Return the seconds since the epoch of a time: `auto`, `never`, `90s`, `30m`, `2h` from now, a
    time of the day, today or tomorrow, or a date with one. ValueError for others."""
    if text in ("auto", "never"):
        end = env.get("SLURM_JOB_END_TIME", "") if text == "auto" else ""
        return float(end) if end.isdecimal() else inf
    if text[-1:] in _SECONDS and text[:-1].replace(".", "", 1).isdecimal():
        return time.time() + float(text[:-1]) * _SECONDS[text[-1]]
    if len(text) in (5, 8) and text[2] == ":":
        now = datetime.now()
        at = datetime.combine(now.date(), datetime_time.fromisoformat(text))
        return (at if at > now else at + timedelta(days=1)).timestamp()
    return datetime.fromisoformat(text).timestamp()


def _number(text: str) -> float:
    """Return the number that `0.1` or `10%` stands for. ValueError for others."""
    return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)


def parse_part(text: str) -> float:
    """Return the samples that `5000`, or the share of them that `0.1` or `10%` stands for; 0 for
    none. ValueError for others."""
    part = _number(text)
    if not (0 <= part < 1 or (part < 2**40 and text.strip().isdecimal())):
        raise ValueError(f"expected a number of samples or a share, got {text}")
    return part


def parse_share(text: str) -> float:
    """Return the share that `0.1` or `10%` stands for. ValueError for others."""
    share = _number(text)
    if not 0 <= share < 1:
        raise ValueError(f"expected a share, got {text}")
    return share


def parse_image_size(text: str) -> tuple[int, int] | None:
    """Return the height and width that `32` or `32x48` stands for, None for "". ValueError for
    others."""
    if not text:
        return None
    height, x, width = text.partition("x")
    size = int(height), int(width if x else height)
    if not all(1 <= side <= 8192 for side in size):
        raise ValueError(f"expected sides of 1 to 8192 pixels, got {text}")
    return size


def digits(value: int) -> str:
    """Return a number that may be too long to print."""
    return str(value) if abs(value) < 1 << 1024 else f"one of {value.bit_length()} bits"
