"""The command `python -m bench`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from . import machine
from .options import UsageError, parse

ON_RANKS = ("exchange", "scaling")  # benchmarks of several ranks, each a module


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks and return the exit status: 2 for an error in the options."""
    words = [*(sys.argv[1:] if arguments is None else arguments)]
    try:
        # Nothing is imported before: NumPy and torch start their threads when they are.
        if words[:1] in ([name] for name in ON_RANKS):
            machine.limit_threads()
            import_module(f".{words[0]}", __package__).run(words[1:], sys.stdout)
            return 0
        options = parse(words)
        core = machine.settle(options.core)
        from .run import run

        run(options, core, sys.stdout)
    except UsageError as error:
        print(f"python -m bench: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
