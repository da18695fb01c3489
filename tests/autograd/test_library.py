"""What a user of the library meets first: imports, the backend, and what is printed."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import backends
from tallygrad.datasets import ImageDataset, Loader


def python(code: str, backend: str | None = None) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k != backends.ENVIRONMENT}
    if backend is not None:
        env[backends.ENVIRONMENT] = backend
    command = [sys.executable, "-P", "-c", f"import tallygrad.autograd as ag\n{code}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)


SHOW = (
    "with ag.context.using(ledger=ag.Ledger()) as s:\n"
    "    ag.conv2d(ag.ones(1, 1, 4, 4), ag.ones(1, 1, 3, 3))\n"
    "print(ag.get_backend(), [r.key.backend for r in s.ledger])"
)


@pytest.mark.parametrize(
    ("backend", "code", "expected"),
    [
        (None, SHOW, "llvm ['llvm']" if find_spec("llvmlite") else "numpy ['numpy']"),
        ("numpy", SHOW, "numpy ['numpy']"),
        ("meta", SHOW, "meta ['meta']"),
        ("", "ag.set_backend('numpy')\n" + SHOW, "numpy ['numpy']"),
        (None, "import sys; print('llvmlite' in sys.modules)", "False"),
    ],
)
def test_the_backend_of_a_fresh_process(backend: str | None, code: str, expected: str) -> None:
    done = python(code, backend)
    assert (done.stdout.strip(), done.stderr) == (expected, "")


def test_an_unknown_backend_is_one_line() -> None:
    done = python("ag.ones(2) + 1", "lvm")
    line = "ValueError: TALLYGRAD_BACKEND: unknown backend 'lvm'; did you mean 'llvm'?"
    assert done.stderr.splitlines()[-1] == line


def test_numpy_stands_in_for_a_default_that_does_not_load() -> None:
    broken = "import sys; from importlib.util import find_spec; import importlib.machinery as m\n"
    broken += "sys.modules['llvmlite'] = type(sys)('llvmlite')\n"
    broken += "sys.modules['llvmlite'].__spec__ = m.ModuleSpec('llvmlite', None)\n"
    code = (
        f"import sys; sys.modules.pop('tallygrad.autograd')\n{broken}"
        "print((ag.ones(2) + 1).tolist())\n"
        "try:\n    ag.set_backend('llvm')\nexcept ImportError:\n    print('refused')"
    )
    pytest.importorskip("llvmlite", reason="llvmlite is not installed")
    done = python(code)
    assert done.stdout.splitlines() == ["[2.0, 2.0]", "refused"], done.stderr
    assert "RuntimeWarning: using NumPy: " in done.stderr


def test_set_backend_is_for_all_threads_and_not_for_blocks() -> None:
    code = (
        "from threading import Thread\n"
        "ag.set_backend('meta')\n"
        "t = Thread(target=lambda: print(ag.get_backend())); t.start(); t.join()\n"
        "with ag.no_grad():\n"
        "    try:\n        ag.set_backend('numpy')\n    except RuntimeError as e:\n"
        "        print(e)\n"
        "try:\n    ag.set_backend('x')\nexcept ValueError as e:\n    print(e)\n"
        "print(ag.get_backend())\n"
    )
    assert python(code).stdout.splitlines() == [
        "meta",
        "set_backend: expected a call outside of blocks such as no_grad() and using(), got one "
        "inside",
        "unknown backend 'x'; choose from numpy, meta, llvm",
        "meta",
    ]


def test_one_import_has_everything() -> None:
    code = "print(ag.nn.Linear, ag.optim.SGD, ag.models.create, ag.context.using, ag.__version__)"
    done = python(code)
    assert done.returncode == 0 and done.stdout.split()[-1] == version("tallygrad"), done.stderr
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        ag.nothing  # noqa: B018
    code = "from tallygrad import autograd, datasets; from tallygrad.autograd import *; print(nn)"
    assert python(code).returncode == 0


def test_size_is_a_number_and_a_call() -> None:
    x = ag.zeros(2, 3)
    assert x.size == 6 and x.size() == (2, 3) and x.size(0) == 2 and x.size(-1) == 3
    assert ag.tensor(1.0).size() == () and ag.tensor(1.0).size == 1
    assert range(x.size)[-1] == 5 and f"{x.size}" == "6" and np.zeros(x.size).shape == (6,)
    assert copy.deepcopy(x.size)() == pickle.loads(pickle.dumps(x.size))() == (2, 3)
    with pytest.raises(IndexError, match="size: expected one of 2 axes, got 2"):
        x.size(2)


def test_format() -> None:
    assert f"{ag.tensor(1.23456):.3f}" == "1.235" and f"{ag.tensor([[7]]):>3d}" == "  7"
    assert f"{ag.tensor([1.0, 2.0])}" == str(ag.tensor([1.0, 2.0]))
    with pytest.raises(TypeError, match=r"format '.3f': expected a single number, got shape \(2,"):
        format(ag.tensor([1.0, 2.0]), ".3f")


def dataset(count: int = 10) -> ImageDataset:
    images = np.zeros((count, 3, 4, 5), np.uint8)
    return ImageDataset(
        "tiny", "train", images, np.arange(count), ("a", "b"), (0.0,) * 3, (1.0,) * 3
    )


def test_a_data_set_is_shown_in_a_line() -> None:
    assert repr(dataset()) == "ImageDataset(tiny/train: 10 images of 3 x 4 x 5, 2 classes)"
    assert repr(dataset(0)).startswith("ImageDataset(tiny/train: 0 images")


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_loader_goes_through_epochs(prefetch: int) -> None:
    loader = Loader(dataset(), 4, seed=3, prefetch=prefetch)
    for epoch in range(3):
        seen = [batch.indices.tolist() for batch in loader]
        assert seen == [batch.indices.tolist() for batch in loader.epoch(epoch)]
        assert sorted(np.concatenate(seen)) == [*range(10)] and len(seen) == len(loader)
    twin = copy.copy(loader)
    assert pickle.loads(pickle.dumps(dataset())).name == "tiny" and len(twin) == 3


# Modules that are no family.
OTHERS = ("__init__", "errors", "functional", "hooks", "init", "options", "packed", "utils")


@pytest.mark.parametrize(
    ("package", "folder"), [(ag, "functional"), (ag.nn, "nn")], ids=["functional", "nn"]
)
def test_what_a_family_names_is_in_the_package(package: ModuleType, folder: str) -> None:
    root = Path(ag.__file__).parent / folder
    families = [path.stem for path in root.glob("*.py") if path.stem not in OTHERS]
    assert len(families) > 5
    for family in families:
        module = import_module(f"tallygrad.autograd.{folder}.{family}")
        for name in module.__all__:
            assert name in package.__all__ and getattr(package, name) is getattr(module, name)
    assert len({*package.__all__}) == len(package.__all__)


def test_functional_holds_all_functions_where_torch_has_them() -> None:
    functional = import_module("tallygrad.autograd.functional")
    in_nn = import_module("tallygrad.autograd.nn.functional")
    assert {"gelu", "linear", "embedding", "cross_entropy"} <= set(functional.__all__)
    for name in functional.__all__:
        assert getattr(functional, name) is getattr(in_nn, name) is getattr(ag, name)
