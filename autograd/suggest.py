"""The name that a user probably meant: the one home of every "did you mean"."""

from __future__ import annotations

from collections.abc import Iterable

# What other programs call an option or a command of ours; a set is one meaning.
SYNONYMS: tuple[frozenset[str], ...] = tuple(
    frozenset(words.split())
    for words in (
        "lr learningrate stepsize",
        "batchsize batch bs b trainbatchsize minibatch images",
        "epochs numepochs nepochs nbepochs epoch e",
        "maxsteps steps numsteps iterations maxiter maxiters iters",
        "weightdecay wd l2 decay",
        "clipnorm gradclip clipgradnorm maxgradnorm gradclipnorm clip",
        "cosine cosineannealinglr cosineannealing",
        "step steplr multisteplr multistep",
        "constant constantlr",
        "onecycle onecyclelr",
        "exponential exponentiallr",
        "polynomial polynomiallr poly linear linearlr",
        "clipvalue clipgradvalue gradclipvalue",
        "optimizer optim opt solver",
        "eps epsilon",
        "ema emadecay modelema averagedecay",
        "momentum mom beta",
        "schedule scheduler lrscheduler lrschedule lrpolicy",
        "warmupsteps warmup warmupepochs warmupiters",
        "microbatches gradaccum accumulationsteps gradientaccumulationsteps accumulate",
        "model arch architecture net network",
        "dataset data datasetname",
        "fashionmnist fmnist fashion",
        "datadir dataroot datapath datafolder root",
        "out output outputdir outdir savedir logdir rundir workdir savepath",
        "resume resumefrom load restore ckpt checkpoint continue",
        "checkpointevery saveevery savefreq saveinterval checkpointfreq checkpointinterval",
        "keepcheckpoints keep savetotallimit",
        "evalevery evalfreq evalinterval testevery validateevery",
        "evalbatchsize testbatchsize valbatchsize validationbatchsize",
        "logevery loginterval logfreq printfreq printevery",
        "threads numthreads nthreads workers numworkers j cpus",
        "backend device engine accelerator",
        "dtype precision amp floattype",
        "float32 fp32 f32 single float",
        "float64 fp64 f64 double",
        "bfloat16 bf16",
        "seed randomseed manualseed",
        "augment augmentation aug transform transforms",
        "labelsmoothing smoothing",
        "validation valsplit validationsplit val valsize valfraction",
        "bucketmb bucketcapmb fusionthresholdmb",
        "ranks np nproc nprocpernode worldsize n numprocesses",
        "hosts host hostlist h",
        "input inputsize inputshape imagesize imgsize shape",
        "classes numclasses nclasses",
        "training backward train",
        "html report page",
        "train fit learn",
        "eval evaluate test validate val",
        "predict infer inference classify",
        "inspect show info dump",
        "cost flops macs summary count",
        "bill account",
        "profile perf time",
        "plan scaling predictscaling",
        "launch run mpirun mpiexec torchrun start",
    )
)

LISTED = 24  # names that a message may list


def unknown(kind: str, name: str, known: Iterable[str]) -> ValueError:
    """Return the error for a `kind` of thing whose `name` is not among the known ones, with a hint
    as of `nearest`."""
    return ValueError(f"unknown {kind} {name!r}{nearest(name, known)}")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return what completes a message about an unknown name.

    That is `; did you mean 'x'?` where a known name is near, else `; choose from a, b`, which is
    left out where it would be long."""
    names = [*known]
    close = closest(name, names)
    if close:
        return f"; did you mean {close!r}?"
    if not names:
        return "; there are none"
    return f"; choose from {', '.join(names)}" if len(names) <= LISTED else ""


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that `name` probably stands for, None where none is near.

    In this order: the same but for case, `-` and `_`; another program's word for the same; the
    shortest that begins with it; the fewest typing errors (a letter too many, missing, wrong, or
    two swapped), at most one in three letters and two in all. Numbers are near no others.
    """
    plain_name, names = _plain(name), {_plain(one): one for one in reversed([*known])}
    if not plain_name or plain_name.isdigit():
        return None
    if plain_name in names:
        return names[plain_name]
    for meaning in SYNONYMS:
        if plain_name in meaning and (same := sorted(meaning & names.keys())):
            return names[same[0]]
    longer = [one for one in names if len(plain_name) > 2 and one.startswith(plain_name)]
    if longer:
        return names[min(longer, key=len)]
    errors = {one: typing_errors(plain_name, one) for one in names}
    best = min(errors, key=lambda one: (errors[one], len(one)), default="")
    return names[best] if best and errors[best] <= min(2, len(plain_name) // 3) else None


def typing_errors(a: str, b: str) -> int:
    """Return how many letters to insert, delete, replace or swap with their neighbour lead from `a`
    to `b` (Damerau 1964, restricted: no letter is edited twice)."""
    before: list[int] = []
    row = [*range(len(b) + 1)]
    for i, x in enumerate(a, 1):
        before, above, row = row, before, [i]
        for j, y in enumerate(b, 1):
            least = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                least = min(least, above[j - 2] + 1)
            row.append(least)
    return row[-1]


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")[:64]
