"""`python -m bench`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from . import machine
from .options import UsageError, parse


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks; return the exit status."""
    options = parse(arguments)
    try:
        core = machine.settle(options.core)
        # NumPy and torch must not load before.
        from .run import run

        run(options, core, sys.stdout)
    except UsageError as error:
        print(f"python -m bench: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
