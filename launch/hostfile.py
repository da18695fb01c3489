"""Hosts and how many ranks each takes: lists such as "a:4,b:4", and hostfiles of either MPI."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from .mpirun import LaunchError

# ssh must not take a name for an option, nor an MPI an empty one for this host.
HOST = re.compile(r"((?:\w[\w.-]*@)?[A-Za-z0-9][\w.-]*)(?::([1-9][0-9]{0,6}))?", re.ASCII)
SLOTS = re.compile(r"slots=([1-9][0-9]{0,6})", re.ASCII)
LIMIT = re.compile(r"max[-_]slots=[1-9][0-9]{0,6}", re.ASCII)  # Open MPI's; slots is never more
LONGEST = 1 << 22  # bytes of a hostfile


@dataclass(frozen=True)
class Host:
    """A host, and the number of ranks that it takes."""

    name: str
    slots: int = 1

    def __str__(self) -> str:
        return f"{self.name}:{self.slots}"


def parse_hosts(text: str) -> tuple[Host, ...]:
    """Return the hosts of a list such as "a:4,b:4"; without a number, one rank.

    Raises ValueError that quotes the first part that is no host.
    """
    found = []
    for part in text.split(","):
        match = HOST.fullmatch(part)
        if not match:
            raise ValueError(f"expected HOST or HOST:N, separated by commas, got {part!r:.60}")
        found.append(Host(match[1], int(match[2] or 1)))
    return tuple(found)


def read_hostfile(path: Path) -> tuple[Host, ...]:
    """Return the hosts of a file, in its order; the slots of a repeated host add up.

    Lines are Open MPI's `HOST slots=N`, MPICH's `HOST:N` or, as in PBS's node files, `HOST` once
    for each rank. `#` starts a comment. Raises LaunchError with file and line.
    """
    slots: dict[str, int] = {}
    for number, line in enumerate(_lines(path), 1):
        if words := line.partition("#")[0].split():
            host = _host(words)
            if host is None:
                said = line.strip()
                raise LaunchError(
                    f"{path}:{number}: expected HOST, HOST:N or HOST slots=N, got {said!r:.80}"
                )
            slots[host.name] = slots.get(host.name, 0) + host.slots
    if not slots:
        raise LaunchError(
            f"{path}: expected at least one host, got none; write one as HOST slots=N"
        )
    return tuple(Host(name, count) for name, count in slots.items())


def _host(words: list[str]) -> Host | None:
    match = HOST.fullmatch(words[0])
    counts = [found[1] for word in words[1:] if (found := SLOTS.fullmatch(word))]
    limits = [word for word in words[1:] if LIMIT.fullmatch(word)]
    if not match or len(counts) + len(limits) != len(words) - 1:
        return None
    if match[2]:
        counts.append(match[2])
    return Host(match[1], int(counts[0]) if counts else 1) if len(counts) < 2 else None


def _lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            data = file.read(LONGEST + 1)
        if len(data) > LONGEST:
            raise LaunchError(
                f"{path}: expected a hostfile of at most {LONGEST >> 20} MB, got more"
            )
        return data.decode("utf-8").splitlines()
    except OSError as error:
        reason = error.strerror or error
        raise LaunchError(f"{path}: expected a readable hostfile, got: {reason}") from None
    except UnicodeDecodeError:
        raise LaunchError(f"{path}: expected a hostfile in UTF-8, got other bytes") from None
