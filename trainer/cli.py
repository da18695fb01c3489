"""The command line: `tallygrad train|eval|predict|inspect|cost|plan|bill|profile|launch`.

Nothing heavy is imported before a command is chosen: help and `inspect` never load MPI, and the
number of threads is set before NumPy loads.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import config as options
from . import streams
from .config import integer
from .errors import Interrupted, UserError, nearest, show
from .memory import memory_errors
from .threads import MOST_THREADS, launched_rank

if TYPE_CHECKING:
    from .distributed.comm import Comm
    from .stop import Stop

TRAIN = """Train a model. Works alike alone, under mpirun, and by `tallygrad launch -n 4 -- train`.
Options come from the defaults, then the file given by --config, then the flags."""

TOP = ("--help", "-h", "--version")  # options without a command
SHARED = ("train", "eval", "predict")  # commands that ranks do together
# Options of other programs that are something else here.
_RANKS = ": ranks come from the launcher, such as `tallygrad launch -n 4 -- train ...`"
_SGD = ": the optimizer is SGD, with --lr, --momentum, --nesterov and --weight-decay"
ELSEWHERE = {
    **dict.fromkeys(("n", "np", "ranks", "nproc", "nproc-per-node", "world-size"), _RANKS),
    **dict.fromkeys(("optimizer", "optim", "opt"), _SGD),
}

# What takes less memory, by command.
SMALLER = {
    "train": "take a smaller --batch-size, more --micro-batches, or more ranks on other hosts",
    "eval": "take a smaller --batch-size",
    "predict": "take fewer --samples, or images",
    "plan": "take a smaller --batch",
    "profile": "take a smaller --batch",
    "cost": "take a smaller --batch",
    "inspect": "free some memory",
    "bill": "free some memory",
}


def parser() -> options.Parser:
    """Return the parser of all commands."""
    top = options.Parser(
        prog="tallygrad", description="Train deep networks with mpirun and count all of the work."
    )
    top.add_argument("--version", action="version", version=f"tallygrad {_version()}")
    commands = top.commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    train = commands.add_parser("train", help="train a model", description=TRAIN)
    options.add_flags(train)
    test = commands.add_parser("eval", help="evaluate a checkpoint on a data set")
    _checkpoint_flags(test)
    test.add_argument("--batch-size", type=integer, default=256, help="images of one step")
    test.add_argument("--json", dest="as_json", action="store_true", help="print JSON")
    predict = commands.add_parser("predict", help="tell the classes of images")
    _checkpoint_flags(predict)
    predict.add_argument(
        "images", nargs="?", default="",
        help="one image or several, .npy or IDX file, 0 to 255 or shares; default: --samples",
    )  # fmt: skip
    predict.add_argument("--samples", default="", help="samples of the data set: 0-9,17 (0-9)")
    predict.add_argument("--json", dest="as_json", action="store_true", help="print JSON")
    look = commands.add_parser("inspect", help="show what a checkpoint holds")
    look.add_argument("file", help="checkpoint, or run folder: its newest")
    look.add_argument("--json", dest="as_json", action="store_true", help="print JSON")
    cost = commands.add_parser("cost", help="tell what a model costs, without running it")
    cost.add_argument("--machine", default="", help="price it on a machine: a name, or FILE.toml")
    cost.add_argument(
        "--zeros", default="", metavar="RUN|FILE",
        help="shares of zeros for the machine: of a run with --sparsity, or of FILE.toml or .json",
    )  # fmt: skip
    cost.add_argument("--ranks", type=integer, default=1, help="ranks that share the gradients")
    form = cost.add_mutually_exclusive_group()
    form.add_argument("--json", dest="as_json", action="store_true", help="print JSON")
    form.add_argument("--csv", dest="as_csv", action="store_true", help="print a line a layer")
    profile = commands.add_parser("profile", help="tell where the time of a model goes here")
    plan = commands.add_parser("plan", help="predict steps on more ranks than there are here")
    _plan_flags(plan)
    for command in (cost, profile, plan):
        command.add_argument("model", help="name of a model, such as resnet20")
        images = 64 if command is plan else 1
        command.add_argument("--batch", type=integer, default=images, help="images of a step")
        command.add_argument("--input", default="", metavar="C,H,W", help="default: the model's")
        command.add_argument("--classes", type=integer, default=0, help="default: the model's")
    for command in (cost, profile):
        command.add_argument(
            "--training", action="store_true", help="a step of training, not inference"
        )
    profile.add_argument("--steps", type=integer, default=5, help="steps to measure")
    profile.add_argument("--backend", default="", help="default: llvm:eager, else numpy")
    profile.add_argument("--json", dest="as_json", action="store_true", help="print JSON")
    bill = commands.add_parser("bill", help="tell what a whole run cost")
    bill.add_argument("run", help="run folder, or checkpoint")
    bill.add_argument("--machine", default="", help="price it on a machine: a name, or FILE.toml")
    bill.add_argument("--co2", type=float, metavar="G", help="grams of CO2 for a kilowatt hour")
    bill.add_argument("--json", dest="as_json", action="store_true", help="print JSON")
    for command in (cost, profile, bill):
        command.add_argument("--html", default="", metavar="FILE", help="write a page with charts")
    for command in (cost, profile, bill, plan):
        command.add_argument(
            "--force", action="store_true", help="replace a file that tallygrad did not write"
        )
    commands.add_parser("launch", help="start ranks on this machine", add_help=False)
    return top


def _plan_flags(plan: argparse.ArgumentParser) -> None:
    plan.add_argument("--ranks", default="1,2,4,8,16,32,64", metavar="P,P,..", help="how many")
    plan.add_argument(
        "--network", default="calibrate", metavar="NAME|FILE", help="what joins hosts, or all of it"
    )
    plan.add_argument("--ranks-per-host", type=integer, default=0, help="default: the network's")
    plan.add_argument("--scaling", default="weak", choices=("weak", "strong", "both"),
                      help="weak: --batch is a rank's; strong: that of all")  # fmt: skip
    plan.add_argument(
        "--algorithm", default="auto", help="of the allreduce; default: the fastest, by formula"
    )
    plan.add_argument("--bucket-mb", type=float, default=1.0, help="as in train")
    plan.add_argument("--machine", default="", help="joules of a step on a machine, as in cost")
    plan.add_argument("--seconds", type=float, default=16.0, help="to measure for, at most 20")
    plan.add_argument("--save", default="", metavar="FILE", help="keep the calibration, as TOML")
    plan.add_argument(
        "--check", action=argparse.BooleanOptionalAction, default=True,
        help="hold the plan against measured steps of this host (default: yes)",
    )  # fmt: skip
    plan.add_argument("--json", dest="as_json", action="store_true", help="print JSON")
    plan.add_argument("--worker", default="", help=argparse.SUPPRESS)


def _version() -> str:
    try:
        return version("tallygrad")
    except PackageNotFoundError:
        return "(not installed)"


def parse(given: Sequence[str]) -> dict[str, Any]:
    """Return the chosen command and its options. UserError for what is unknown, with the nearest
    known option."""
    top = parser()
    _check_command(given, top.commands.choices)
    found, unknown = top.parse_known_args(given)
    chosen = vars(found)
    if unknown:
        command = top.commands.choices[chosen["command"]]
        known = tuple(flag for action in command._actions for flag in action.option_strings)
        name = unknown[0].partition("=")[0]
        if not name.startswith("-"):
            hint = ": models are named by --model" if chosen["command"] == "train" else ""
            raise UserError(f"{chosen['command']}: unexpected argument {name!r}{hint}")
        hint = ELSEWHERE.get(name.strip("-")) or nearest(name, known)
        way = hint or f" (see tallygrad {chosen['command']} --help)"
        raise UserError(f"{chosen['command']}: unknown option {name}{way}")
    return chosen


def _check_command(given: Sequence[str], commands: Mapping[str, Any]) -> None:
    """UserError for a first word that is no command, with the nearest."""
    if not (word := next(iter(given), "")):
        raise UserError(f"expected a command, one of {', '.join(commands)} (see tallygrad --help)")
    if word.startswith("-") and word not in TOP:
        raise UserError(f"a command comes first: unknown option {word}{nearest(word, TOP)}")
    if not word.startswith("-") and word not in commands:
        raise UserError(f"unknown command {word!r}{nearest(word, commands)}")


def _checkpoint_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("checkpoint", help="checkpoint, or run folder: its best, else its newest")
    command.add_argument("--dataset", default="", help="data set; default: the training's")
    command.add_argument("--split", default="test", choices=("train", "validation", "test"),
                         help="validation: what the training held out (default: test)")  # fmt: skip
    command.add_argument("--data-dir", default="", help="folder to look for the data set in first")
    command.add_argument("--threads", type=integer, default=0, help="threads; 0: cores / ranks")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status: 0, 2 for what the user can mend, 3 for a loss that is
    not finite, 1 for a fault of ours."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    streams.prepare()
    try:
        status = _run(given)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0
    except BrokenPipeError:
        status = 141  # whoever read our output has seen enough
    except KeyboardInterrupt as error:
        by = Interrupted.of(error)
        print(f"tallygrad: {by}", file=sys.stderr, flush=True)
        status = by.status
    try:
        streams.finish()
    except UserError as error:
        print(f"tallygrad: error: {error}", file=sys.stderr, flush=True)
        status = status or error.status
    return status


def _run(given: Sequence[str]) -> int:
    if given[:1] == ["launch"]:
        from ..launch.local import run

        return run([*given[1:]])
    alone = not _shared(given)
    if alone and launched_rank():
        return 0  # rank 0 does it, and says what is wrong
    try:
        chosen = parse(given)
        command = chosen.pop("command")
        with memory_errors(SMALLER[command]):
            return COMMANDS[command](chosen)
    except BrokenPipeError:
        raise
    except Exception as error:
        return _complain(error, alone)


def _shared(given: Sequence[str]) -> bool:
    """Tell whether ranks do a command together; else rank 0 does it alone, and nobody loads MPI."""
    asks_help = {"-h", "--help", "--version"} & {*given}
    return not asks_help and ({*given[:1]} <= {*SHARED} or "--worker" in given)


def _complain(error: Exception, alone: bool) -> int:
    """Say what is wrong, and end the ranks that wait for this one."""
    from .distributed.comm import SerialComm, UnmetComm, connect, expected_size
    from .distributed.guard import guard

    if not isinstance(error, UserError) and (alone or expected_size() is None):
        raise error
    comm: Comm = SerialComm()
    if not alone:
        try:
            comm = connect()
        except UserError:
            comm = UnmetComm()
    with guard(comm):
        raise error


@contextmanager
def _ranks(
    command: str, threads: int, values: Mapping[str, Any]
) -> Iterator[tuple[Comm, Stop]]:
    """Settle the threads, 0 for those of the environment, meet the other ranks, which must run the
    same command with the same options, heed signals."""
    from .threads import configure

    if threads < 0:
        raise UserError(f"--threads: {threads} is less than 0")
    if threads > MOST_THREADS:
        raise UserError(f"--threads: {threads} is more than {MOST_THREADS}")
    count = configure(wanted=threads)
    from ..autograd import context, set_num_threads
    from .distributed.agreement import agree, program_facts
    from .distributed.comm import connect
    from .distributed.guard import guard
    from .stop import Stop

    set_num_threads(count)
    comm = connect()
    # After `connect`: MPICH installs a handler of its own for SIGUSR1.
    # Options choose the backend of the work itself; what is made before is NumPy's.
    with (
        Stop(says=comm.rank == 0) as stop,
        guard(comm),
        memory_errors(SMALLER[command]),
        context.using(backend="numpy"),
    ):
        agree(comm, lambda: program_facts(command, values))
        yield comm, stop


def _train(chosen: dict[str, Any]) -> int:
    values = options.gather(chosen.pop("config"), chosen)
    with _ranks("train", values.get("threads", 0), values) as (comm, stop):
        from .cost.report.ledger import bill, sparsity
        from .loop import Training
        from .resume import occupy
        from .summary import continuation, outcome

        with occupy(values, comm) as (config, source, folder):
            training = Training(config, comm, folder, source, stop=stop)
            result = training.run()
        if training.stopped:
            if comm.rank == 0:
                print(continuation(training.state.step, config, comm.size, folder.path),
                      file=sys.stderr, flush=True)  # fmt: skip
            return stop.status
        if comm.rank == 0:
            table = [bill(training.total), *sparsity(training.total, training.state.step)]
            show("\n" + "\n".join(table) + "\n")
            show("\n".join(outcome(result, folder.path)))
    return 0


def _eval(chosen: dict[str, Any]) -> int:
    with _ranks("eval", chosen.pop("threads"), chosen) as (comm, _):
        from .apply import evaluate_checkpoint

        evaluate_checkpoint(comm, **chosen)
    return 0


def _predict(chosen: dict[str, Any]) -> int:
    with _ranks("predict", chosen.pop("threads"), chosen) as (comm, _):
        from .apply import predict

        if comm.rank == 0:
            predict(**chosen)
        comm.barrier()
    return 0


def _inspect(chosen: dict[str, Any]) -> int:
    from .inspect import run

    return run(Path(chosen["file"]), chosen["as_json"])


def _cost(chosen: dict[str, Any]) -> int:
    _alone(chosen["machine"])
    from .commands.cost import run

    return run(chosen)


def _profile(chosen: dict[str, Any]) -> int:
    from .threads import configure

    configure(wanted=1)  # before NumPy loads
    from .commands.profile import run

    return run(chosen)


def _alone(machine: str) -> None:
    """Have this machine measured in one thread, which is to be settled before NumPy loads."""
    if machine == "host":
        from .threads import configure

        configure(wanted=1)


def _plan(chosen: dict[str, Any]) -> int:
    if chosen["worker"]:
        with _ranks("plan", 1, chosen) as (comm, _):
            from .calibration.measure import worker

            worker(comm, Path(chosen["worker"]))
        return 0
    from .threads import configure

    configure(wanted=1)  # before NumPy loads
    from ..launch import local
    from .commands.plan import run

    def start(ranks: int, command: list[str], timeout: float) -> int:
        try:
            return local.start(ranks, command, timeout)
        except local.LaunchError as error:
            raise UserError(str(error)) from error

    try:
        local.find_mpirun()
    except local.LaunchError as error:
        return run(chosen, None, str(error))
    return run(chosen, start)


def _bill(chosen: dict[str, Any]) -> int:
    _alone(chosen["machine"])
    from .commands.bill import run

    return run(chosen)


COMMANDS = {
    "bill": _bill,
    "plan": _plan,
    "profile": _profile,
    "train": _train,
    "eval": _eval,
    "predict": _predict,
    "inspect": _inspect,
    "cost": _cost,
}
