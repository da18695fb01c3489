"""The command `python -m bench`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from . import machine
from .options import UsageError, parse


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks and return the exit status: 2 for an error in the options."""
    options = parse(arguments)
    try:
        core = machine.settle(options.core)
        # Not before: NumPy and torch start their threads when they are imported.
        from .run import run

        run(options, core, sys.stdout)
    except UsageError as error:
        print(f"python -m bench: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
