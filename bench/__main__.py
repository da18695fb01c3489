"""The command `python -m bench`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from tallygrad.launch.mpirun import LaunchError
from tallygrad.trainer.errors import UserError

from . import machine
from .options import OTHERS, UsageError, parse, unknown


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark that the first word names, or that of single steps; return the
    exit status: 2 for what the user can mend."""
    words = [*(sys.argv[1:] if arguments is None else arguments)]
    name = words.pop(0) if words and not words[0].startswith("-") else ""
    try:
        if name:
            if name not in OTHERS:
                raise UsageError(unknown(name, OTHERS))
            # Nothing is imported before: NumPy and torch start their threads when they are.
            machine.limit_threads()
            return int(import_module(f".{name}", __package__).run(words))
        options = parse(words)
        core = machine.settle(options.core)
        from .run import run

        run(options, core, sys.stdout)
    except (UsageError, UserError, LaunchError) as error:
        print(f"{' '.join(['python -m bench', *[name] * bool(name)])}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
