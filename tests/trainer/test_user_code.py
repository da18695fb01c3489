"""Code of the user: what names it, how it is loaded, and how its faults are told."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tallygrad.trainer import user_code
from tallygrad.trainer.errors import UserError


@pytest.mark.parametrize(
    ("name", "is_code"),
    [
        ("my.py:Net", True), ("a/b c.py:Net", True), ("package.module:Net", True),
        ("my.py:Net(shape='a:b')", True), ("my.py:", True), ("resnet20", False), ("my.py", False),
        ("lenet(name='a:b')", False), ("/data/a:b", False), ("photos.npz", False), ("", False),
    ],
)  # fmt: skip
def test_which_names_stand_for_code(name: str, is_code: bool) -> None:
    assert user_code.names_code(name) == is_code


def test_labels_can_name_a_folder() -> None:
    names = {"a/my.py:Net": "Net", "resnet20": "resnet20", "/data/flowers/": "flowers", ".": "run"}
    assert {name: user_code.label(name) for name in names} == names


def test_names_are_the_same_wherever_the_file_lies() -> None:
    assert user_code.same("a/my.py:Net(n=1)", "b/other.py:Net(n=1)")
    assert not user_code.same("my.py:Net(n=1)", "my.py:Net(n=2)")
    assert not user_code.same("my.py:Net", "Net")


def test_a_file_runs_once_as_a_module_and_its_neighbours_can_be_imported(tmp_path: Path) -> None:
    """Dataclasses look their module up; both names of a file are of one module."""
    (tmp_path / "neighbour_of_mine.py").write_text("RUNS = []\n")
    text = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "from neighbour_of_mine import RUNS\nRUNS.append(1)\n"
        "@dataclass\nclass Net:\n    width: int = 3\ndef data(): return Net, RUNS\n"
    )
    file = tmp_path / "json.py"  # a name that is taken
    file.write_text(text)
    net, data = (user_code.load("--model", f"{file}:{name}") for name in ("Net", "data"))
    assert net.value().width == 3
    assert data.value() == (net.value, [1])
    assert net.sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert user_code.facts()[f"SHA-256 of {file}:Net"] == net.sha256
    assert {"name": f"{file}:Net", "file": str(file), "sha256": net.sha256} in user_code.loaded()


def test_a_module_is_imported_from_this_folder_after_installed_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for package in ("mine_alone", "xmlrpc"):  # one of Python, and not imported yet
        (tmp_path / package).mkdir()
        (tmp_path / package / "nets.py").write_text("def net(): return 7\n")
    assert user_code.load("--model", "mine_alone.nets:net").value() == 7
    with pytest.raises(UserError, match=r"xmlrpc\.nets: ModuleNotFoundError"):
        user_code.load("--model", "xmlrpc.nets:net")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import no_such_library\n", r"my\.py:1: ModuleNotFoundError: No module named 'no_such"),
        ("def f():\n    return 1 / 0\nf()\n", r"my\.py:3 > my\.py:2: ZeroDivisionError: division"),
        ("class Net\n", r"my\.py:1: SyntaxError: expected ':'"),
        ("raise SystemExit('usage')\n", r"my\.py:1: SystemExit: usage"),
        ("def Nett(): ...\n", r"no 'Net' in .*my\.py; did you mean 'Nett'\?"),
    ],
)
def test_faults_are_told_in_one_line_with_their_place(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "my.py").write_text(text)
    for _ in range(2):  # what has failed is not there the second time
        with pytest.raises(UserError, match=f"^--model: .*{said}"):
            user_code.load("--model", f"{tmp_path}/my.py:Net")


def test_a_missing_file_and_a_malformed_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--model: .*none\.py: No such file or directory$"):
        user_code.load("--model", f"{tmp_path}/none.py:Net")
    with pytest.raises(UserError, match=r"expected FILE\.py:NAME or package\.module:NAME, got"):
        user_code.load("--model", "my.py:")


def test_errors_of_called_code_have_its_lines_and_others_none(tmp_path: Path) -> None:
    file = tmp_path / "calls.py"
    file.write_text("import json\ndef net():\n    return json.loads('{')\n")
    net = user_code.load("--model", f"{file}:net").value
    with (
        pytest.raises(UserError, match=r"^--model: calls\.py:3: JSONDecodeError: Expecting"),
        user_code.explained("--model"),
    ):
        net()
    with pytest.raises(ZeroDivisionError), user_code.explained("--model"):
        _ = 1 / 0


def test_a_script_that_trains_where_it_is_loaded_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "trains.py"
    file.write_text("import tallygrad.trainer as tg\ntg.init()\ndef net(): ...\n")
    with pytest.raises(UserError, match=r"got one that trains; put that under: if __name__"):
        user_code.load("--model", f"{file}:net")
    file.write_text(
        "import tallygrad.trainer as tg\nif __name__ == '__main__': tg.init()\nN = int\n"
    )
    assert user_code.load("--model", f"{file}:N").value is int
