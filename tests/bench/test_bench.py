"""The benchmarks: options, rows, and the same work on both sides. No test looks at a time."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallygrad.autograd import backends, from_numpy, no_grad
from tallygrad.autograd import primitive as door

ROOT = Path(__file__).resolve().parents[2]
HIDING_TORCH = """
import runpy, sys
sys.modules["torch"] = None
runpy.run_module("bench", run_name="__main__", alter_sys=True)
"""
ROW = {
    "case", "mode", "dtype", "ours_ms", "torch_ms", "torch_mode", "ratio", "gflops", "peak_share",
    "to_float32", "torch_modes",
}  # fmt: skip
MODELS = ["lenet-64", "lenet5-64", "resnet20-128", "resnet18-32", "mlp-64", "lstm-128"]


@pytest.fixture(scope="module")
def bench(bench_package: Any) -> Any:
    """The package with the modules that are used here."""
    for name in ("accuracy", "cases", "options", "measure", "ours", "profile", "report"):
        import_module(f"bench.{name}")
    return bench_package


@pytest.fixture
def quick(bench: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of runs, whose warm-up and rounds are as short as can be."""
    run = import_module("bench.run")
    monkeypatch.setattr(bench.measure, "WARM_SECONDS", 0.0)
    monkeypatch.setattr(bench.measure, "SLICE", 0.0)
    monkeypatch.setattr(run, "sgemm_peak", lambda: 100.0)
    return run


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["--cases", "lenet-64,lenet-65"],
            r"--cases: expected one of lenet-64, .*got 'lenet-65'$",
        ),
        (["--modes", "test"], "--modes: expected one of train, infer, got 'test'"),
        (
            ["--torch-modes", "fast"],
            r"--torch-modes: expected one of nchw, channels-last, compile, .*, got 'fast'$",
        ),
        (["--dtypes", "bf16,fp8"], r"--dtypes: expected one of float32, bf16, got 'fp8'$"),
        (["--backend", "fpga"], r"--backend: expected one of numpy.*, got 'fpga'$"),
        (["--backend", "meta"], r"--backend: expected one of numpy(?!.*meta,).*, got 'meta'$"),
        (
            ["--cases", "lenet-1", "--modes", "train"],
            "--modes: expected infer for lenet-1, got train",
        ),
        (["--rounds", "0"], "expected a whole number above 0, got '0'"),
        (["--seconds", "nan"], "expected a number above 0, got 'nan'"),
        (["--rounds", "2", "--seconds", "1"], "not allowed with argument --rounds"),
        (["--core", "one"], "--core: expected a core's number, got 'one'"),
        (["--core", "99999"], "--core: "),
        (["--json", "no/such/folder/file.json"], "cannot write no/such/folder/file.json: No such"),
        (["--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(arguments: list[str], expected: str) -> None:
    answer = call("-m", "bench", *arguments)
    assert answer.returncode == 2 and answer.stdout == ""
    (line,) = answer.stderr.splitlines()
    assert re.search(expected, line), line


def test_a_model_stands_for_its_cases(bench: Any) -> None:
    options = bench.options.parse(["--cases", "mlp,lenet,lenet-64", "--torch-modes", "none"])
    work = [(case.name, mode) for case, mode in options.work()]
    twice = [(n, mode) for n in ("mlp-64", "lenet-64", "lenet-256") for mode in bench.cases.MODES]
    assert work == [*twice, ("lenet-1", "infer")] and options.torch_modes == ()


def test_threads_and_core_are_settled_before_numpy_loads() -> None:
    code = (
        "import os, sys\n"
        "os.environ['OMP_NUM_THREADS'] = '4'\n"
        "import bench.__main__\n"
        "from bench import machine\n"
        "core = machine.settle(None)\n"
        "assert not {'numpy', 'torch'} & set(sys.modules), 'loaded'\n"
        "assert os.environ['OMP_NUM_THREADS'] == os.environ['OPENBLAS_NUM_THREADS'] == '1'\n"
        "if hasattr(os, 'sched_getaffinity'):\n"
        "    assert os.sched_getaffinity(0) == {core}\n"
    )
    answer = call("-c", code)
    assert answer.returncode == 0, answer.stderr


def test_without_torch_it_prints_ours_alone(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    options = ["--cases", "lenet-1,mlp", "--rounds", "2", "--backend", "numpy"]
    options += ["--dtypes", "float32", "--profile"]
    answer = call("-c", HIDING_TORCH, *options, "--json", str(file))
    assert answer.returncode == 0, answer.stderr
    assert "note: only Tallygrad is measured, torch does not load" in answer.stdout
    results = json.loads(file.read_text())
    assert results.keys() == {"host", "rows"}
    rows, host = results["rows"], results["host"]
    measured = [(row["case"], row["mode"]) for row in rows]
    assert measured == [("lenet-1", "infer"), ("mlp-64", "train"), ("mlp-64", "infer")]
    for row in rows:
        assert row.keys() == ROW
        assert row["dtype"] == "float32" and row["torch_modes"] == {}
        assert row["torch_ms"] is row["torch_mode"] is row["ratio"] is row["to_float32"] is None
        assert 0 < row["ours_ms"]["min"] <= row["ours_ms"]["median"]
    macs = [2_293_000, 64 * (3 * 268_800 - 784 * 256), 64 * 268_800]
    for row, each in zip(rows, macs, strict=True):
        assert row["gflops"] == pytest.approx(2e-6 * each / row["ours_ms"]["median"])
        assert row["peak_share"] == pytest.approx(row["gflops"] / host["sgemm_peak_gflops"])
    assert host["backend"] == "numpy" and host["numpy"] == np.__version__
    if hasattr(os, "sched_getaffinity"):
        assert host["core"] == max(os.sched_getaffinity(0))
    assert {"cpu", "python", "torch", "llvmlite", "date", "notes"} <= host.keys()
    profile = answer.stdout.partition("mlp-64 train float32  ")[2].partition("\n\n")[0]
    lines = {line.split("  ")[0]: line for line in profile.splitlines()[2:]}
    assert {"matmul", "sgd", "cross_entropy", "python and rest", "step"} <= lines.keys()
    shares = {name: float(line.partition("%")[0].split()[-1]) for name, line in lines.items()}
    assert shares.pop("step") == 100 and sum(shares.values()) == pytest.approx(100, abs=2)


@pytest.mark.parity
def test_beside_torch(bench: Any, quick: Any, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    file = tmp_path / "results.json"
    pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    options = ["--cases", "lenet-1,mlp", "--rounds", "1", "--backend", "numpy"]
    float32, bf16 = ["nchw", "channels-last"], ["autocast", "bfloat16", "fp32-precision"]
    modes = ["--torch-modes", ",".join(float32 + bf16)]
    out = StringIO()
    quick.run(bench.options.parse([*options, *modes, "--json", str(file)]), None, out)
    results = json.loads(file.read_text())
    assert results["host"]["torch"] and "fp32-precision" in out.getvalue()
    for note in results["host"]["notes"][1:]:  # of a torch without the setting
        assert note.startswith("torch's fp32-precision is left out for lenet-1 infer, mlp-64 train")
        bf16.remove("fp32-precision")
    assert [row["dtype"] for row in results["rows"]] == ["float32", "bf16"] * 3
    for row in results["rows"]:
        assert row.keys() == ROW
        assert [*row["torch_modes"]] == float32 + bf16
        assert row["torch_ms"] == row["torch_modes"][row["torch_mode"]]
        assert row["torch_mode"] in (float32 if row["dtype"] == "float32" else bf16)
        assert row["ratio"] == row["torch_ms"]["median"] / row["ours_ms"]["median"]
    for plain, half in zip(results["rows"][::2], results["rows"][1::2], strict=True):
        assert half["to_float32"] == plain["ours_ms"]["median"] / half["ours_ms"]["median"]


@pytest.mark.parity
def test_compile_that_fails_is_told_once(
    bench: Any, quick: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    theirs = import_module("bench.theirs")

    def fail(*_: object, **__: object) -> None:
        raise OSError("no compiler\nand more lines")

    monkeypatch.setattr(theirs.torch, "compile", fail)
    wanted = ["--cases", "mlp", "--torch-modes", "nchw,compile,bfloat16", "--rounds", "1"]
    wanted += ["--dtypes", "float32"]
    host, rows = quick.Bench(bench.options.parse([*wanted, "--backend", "numpy"]), 0).run()
    assert [row["torch_mode"] for row in rows] == ["nchw", "nchw"]
    assert all(row["torch_modes"].keys() == {"nchw"} for row in rows)
    left_out = "torch's compile is left out for mlp-64 train, mlp-64 infer: OSError: no compiler"
    assert host["notes"] == [left_out]


@pytest.mark.parity
def test_a_torch_without_the_setting_leaves_that_mode_out(
    bench: Any, quick: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    theirs = import_module("bench.theirs")
    monkeypatch.setattr(theirs.torch.backends, "mkldnn", object())
    wanted = ["--cases", "mlp", "--modes", "infer", "--torch-modes", "nchw,fp32-precision"]
    options = bench.options.parse([*wanted, "--rounds", "1", "--backend", "numpy"])
    host, rows = quick.Bench(options, 0).run()
    assert [row["torch_mode"] for row in rows] == ["nchw", None]
    (note,) = host["notes"]
    assert note.startswith("torch's fp32-precision is left out for mlp-64 infer: NotImplementedErr")


@pytest.mark.parity
def test_a_setting_of_torch_is_that_of_one_contender(bench: Any) -> None:
    torch: Any = pytest.importorskip("torch", reason="torch is not installed")
    theirs, settings = import_module("bench.theirs"), torch.backends.mkldnn
    if not hasattr(settings, "fp32_precision"):
        pytest.skip("this torch has no torch.backends.mkldnn.fp32_precision")
    before, seen = settings.fp32_precision, []
    theirs._reduced(lambda: seen.append(settings.fp32_precision))()
    assert seen == ["bf16"] != [before] and settings.fp32_precision == before


def test_rows_compare_with_the_best_mode_of_each_type(bench: Any) -> None:
    Times = bench.measure.Times
    times = {
        "ours float32": Times(4.0, 3.0),
        "ours bf16": Times(2.5, 2.0),
        "nchw": Times(9.0, 1.0),
        "compile": Times(8.0, 7.0),
        "autocast": Times(2.0, 1.5),
        "fp32-precision": Times(1.0, 0.9),
    }
    case, macs = bench.cases.CASES["mlp-64"], {"float32": 10_000_000, "bf16": 10_000_000}
    plain, half = bench.report.rows(bench.report.Result(case, "infer", times, macs), 50.0)
    assert (plain["dtype"], plain["torch_mode"], plain["ratio"]) == ("float32", "compile", 2.0)
    assert (half["dtype"], half["torch_mode"], half["ratio"]) == ("bf16", "fp32-precision", 0.4)
    assert (plain["to_float32"], half["to_float32"]) == (None, 1.6)
    assert half["ours_ms"] == {"median": 2.5, "min": 2.0}
    assert plain["gflops"] == pytest.approx(5.0) and plain["peak_share"] == pytest.approx(0.1)
    assert half["gflops"] == pytest.approx(8.0)
    del times["ours float32"]
    (alone,) = bench.report.rows(bench.report.Result(case, "infer", times, macs), 50.0)
    assert alone["dtype"] == "bf16" and alone["to_float32"] is None


@pytest.mark.parametrize("mode", ["train", "infer"])
def test_ours_in_bf16_is_that_of_the_trainer(bench: Any, mode: str) -> None:
    ml_dtypes: Any = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    case = replace(bench.cases.CASES["resnet20-128"], batch=2)
    plain, half = (bench.ours.Ours(case, mode, "meta", d) for d in ("float32", "bf16"))
    full, less = plain.count().total(), half.count().total()
    assert less.macs == full.macs and less.bytes_read < 0.7 * full.bytes_read
    assert half.infer_plainly().dtype == ml_dtypes.bfloat16
    # Images, the mean of pooling and its gradient are cast; weights are not: they have copies.
    casts = sum(n for (_, _, name, *_), n in half.count().calls.items() if name == "cast")
    assert casts == {"train": 3, "infer": 1}[mode]
    assert {p.dtype for p in half.model.parameters()} == {np.dtype(np.float32)}


def test_nothing_to_measure_is_one_line(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def ours(*args: Any) -> Any:
        raise ImportError("no ml_dtypes")

    run = import_module("bench.run")
    monkeypatch.setattr(run, "Ours", ours)
    words = ["--dtypes", "bf16", "--torch-modes", "none", "--backend", "numpy"]
    measured = run.Bench(bench.options.parse(words), None)
    said = r"expected something to measure, got none \(Tallygrad in bf16: .*no ml_dtypes"
    with pytest.raises(bench.options.UsageError, match=said):
        measured.measure(bench.cases.CASES["mlp-64"], "train")


def test_contenders_take_turns(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(bench.measure, "warm_up", lambda contender: None)
    fake = [bench.measure.Contender(name, lambda name=name: done.append(name)) for name in "abc"]
    fake[1].many = 2
    times = bench.measure.interleave(fake, 3, 0.0)
    assert "".join(done) == "abbc" + "bbca" + "cabb" and [*times] == ["a", "b", "c"]
    done.clear()
    bench.measure.interleave(fake, None, 1e-9)
    assert len(done) == 3 * 4


def test_a_backend_that_does_not_load_is_left_with_a_note(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str) -> None:
        if name == "llvm":
            raise ImportError("no llvmlite")

    monkeypatch.setattr(backends, "names", lambda: ("numpy", "meta", "llvm"))
    monkeypatch.setattr(backends, "get", load)
    notes: list[str] = []
    assert bench.ours.choose_backend(None, notes) == "numpy"
    assert notes == ["backend llvm does not load: ImportError: no llvmlite"]
    with pytest.raises(bench.options.UsageError, match="no llvmlite"):
        bench.ours.choose_backend("llvm", notes)
    monkeypatch.setattr(backends, "get", lambda name: None)
    assert bench.ours.choose_backend(None, notes) == "llvm"
    assert bench.ours.choose_backend("llvm:eager", notes) == "llvm:eager"
    with pytest.raises(
        bench.options.UsageError, match=r"--backend: expected one of .*numpy.*, got 'fast:eager'"
    ):
        bench.ours.choose_backend("fast:eager", notes)


def test_a_backend_with_an_unknown_option_ends_in_one_line(bench: Any) -> None:
    with pytest.raises(bench.options.UsageError, match="expected no options, got 'much'"):
        bench.ours.choose_backend("numpy:much", [])


def test_a_profile_counts_calls_and_leaves_no_clocks(bench: Any) -> None:
    ours = bench.ours.Ours(replace(bench.cases.CASES["mlp-64"], batch=2), "train", "numpy")
    used = bench.profile.used(ours.plain)
    for p in used:  # of other tests, which calls of this one might make it forget
        p.resolved.older = {}
        p.resolved.clear()
    ours.plain()
    before = {p: dict(p.resolved) for p in used}
    perform = door.perform
    lines = {line.name: line for line in bench.profile.profile(ours)}
    holders = [m for k, m in sys.modules.items() if k.startswith("tallygrad.autograd")]
    found = [vars(m)["perform"] for m in holders if "perform" in vars(m)]
    assert len(found) >= 2 and all(function is perform for function in found)
    assert {p: dict(p.resolved) for p in used} == before
    assert lines["linear"].calls == 3 and lines["matmul"].calls == 3 + 2
    assert lines["sgd"].calls == 1
    assert lines["matmul"].gflops and lines["relu"].gflops is None
    whole = sum(line.ms for name, line in lines.items() if name != "step")
    assert whole == pytest.approx(lines["step"].ms)


def test_a_profile_of_inference_sees_the_kernels(bench: Any) -> None:
    ours = bench.ours.Ours(replace(bench.cases.CASES["mlp-64"], batch=2), "infer", "numpy")
    lines = {line.name: line for line in bench.profile.profile(ours)}
    assert lines["linear"].calls == 3 and lines["relu"].calls == 2
    assert np.array_equal(ours.infer().numpy(), ours.infer_plainly().numpy())


def test_a_profile_sees_the_kernels_of_captured_steps(bench: Any) -> None:
    pytest.importorskip("llvmlite", reason="llvmlite is not installed")
    ours = bench.ours.Ours(replace(bench.cases.CASES["mlp-64"], batch=2), "train", "llvm")
    for _ in range(3):
        ours.step()
    lines = {line.name: line for line in bench.profile.profile(ours)}
    assert lines["linear"].calls == 3 and lines["matmul"].calls == 3 + 2


def test_resnet18_is_that_of_32_x_32(bench: Any) -> None:
    ours = bench.ours.Ours(replace(bench.cases.CASES["resnet18-32"], batch=1), "infer", "meta")
    assert sum(p.size for p in ours.model.parameters()) == 11_173_962
    # The stem, a stage of 64 channels, three that halve the extent, the linear layer.
    assert ours.count().total().macs == 1_769_472 + 150_994_944 + 3 * 134_217_728 + 5_120


def test_images_lie_channels_last(bench: Any) -> None:
    images, labels = bench.ours.batch(bench.cases.CASES["resnet20-128"])
    assert images.shape == (128, 3, 32, 32) and labels.shape == (128,)
    assert images.transpose(0, 2, 3, 1).flags.c_contiguous and images.dtype == np.float32


@pytest.mark.parity
@pytest.mark.parametrize("name", MODELS)
def test_both_sides_have_the_same_parameters_and_results(bench: Any, name: str) -> None:
    torch: Any = pytest.importorskip("torch", reason="torch is not installed")
    case = replace(bench.cases.CASES[name], batch=2)
    mine = bench.ours.create(case).eval()
    theirs = import_module("bench.torch_models").create(case).eval()
    shapes = {k: tuple(p.shape) for k, p in theirs.named_parameters()}
    assert {k: p.shape for k, p in mine.named_parameters()} == shapes
    state = {k: torch.from_numpy(v) for k, v in mine.state_dict().items()}
    missing, extra = theirs.load_state_dict(state, strict=False)
    assert not extra and all(k.endswith("num_batches_tracked") for k in missing)
    images, _ = bench.ours.batch(case)
    with torch.no_grad(), no_grad():
        expected = theirs(torch.from_numpy(images)).numpy()
        np.testing.assert_allclose(mine(from_numpy(images)).numpy(), expected, 1e-3, 1e-4)


@pytest.mark.parity
@pytest.mark.parametrize("name", MODELS)
def test_both_sides_do_the_same_macs(bench: Any, name: str) -> None:
    torch: Any = pytest.importorskip("torch", reason="torch is not installed")
    counter: Any = import_module("torch.utils.flop_counter").FlopCounterMode
    case = replace(bench.cases.CASES[name], batch=2)
    model = import_module("bench.torch_models").create(case).to("meta")
    images = torch.empty(2, *case.shape, device="meta")
    labels = torch.zeros(2, dtype=torch.int64, device="meta")
    with counter(display=False) as forward:
        logits = model(images)
    with counter(display=False) as backward:
        torch.nn.functional.cross_entropy(logits, labels).backward()
    ledger = bench.ours.Ours(case, "train", "meta").count().by("phase")
    assert 2 * ledger["forward"].macs == forward.get_total_flops()
    swept = ledger["backward_data"].macs + ledger["backward_weights"].macs
    assert 2 * swept == backward.get_total_flops()
