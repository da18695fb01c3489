"""Row stationary against the measured Eyeriss chip, ISCA 2016's energies, and brute force."""

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import product

import pytest

from tallygrad.trainer.cost.machines.eyeriss.baseline_dataflows import baseline_dataflows
from tallygrad.trainer.cost.machines.eyeriss.mapping import banks, count, misfit
from tallygrad.trainer.cost.machines.eyeriss.row_stationary import (
    EYERISS,
    ISCA2016,
    Chip,
    ConvShape,
    Costs,
    Mapping,
    MapZeros,
    RowStationaryEstimate,
    coded_words,
    energy,
    estimate,
    passes,
    search,
)
from tallygrad.trainer.errors import UserError

NAMES = ("CONV1", "CONV2", "CONV3", "CONV4", "CONV5")
# Eyeriss, JSSC 2017, Table V, AlexNet at batch 4: active PEs, megabytes of buffer and of DRAM,
# milliseconds; and the zeros of a layer's input, which are those of the output before it. The last
# layer's output is in no row: it is taken to be as its input.
CHIP = {
    "CONV1": (154, 18.5, 5.0, 16.5),
    "CONV2": (135, 77.6, 4.0, 39.2),
    "CONV3": (156, 50.2, 3.0, 21.8),
    "CONV4": (156, 37.4, 2.1, 16.0),
    "CONV5": (156, 24.9, 1.3, 10.0),
}
ZEROS = dict(
    zip(
        NAMES,
        map(MapZeros, (0.0001, 0.387, 0.725, 0.793, 0.776), (0.387, 0.725, 0.793, 0.776, 0.776)),
        strict=True,
    )
)
# The configuration of ISCA 2016 at batch 16: 1e9 units of ALU, DRAM and registers.
ANALYSIS = {
    "CONV1": (1.687, 2.456, 6.747),
    "CONV2": (3.583, 2.270, 14.333),
    "CONV3": (2.392, 2.021, 9.569),
    "CONV4": (1.794, 1.568, 7.177),
    "CONV5": (1.196, 1.045, 4.785),
}


def alexnet(name: str, n: int) -> ConvShape:
    """Return a CONV layer of AlexNet."""
    return {
        "CONV1": ConvShape(n, 96, 3, 227, 227, 11, 11, 55, 55, 4),
        "CONV2": ConvShape(n, 256, 96, 27, 27, 5, 5, 27, 27, 1, 2),
        "CONV3": ConvShape(n, 384, 256, 13, 13, 3, 3, 13, 13),
        "CONV4": ConvShape(n, 384, 384, 13, 13, 3, 3, 13, 13, 1, 2),
        "CONV5": ConvShape(n, 256, 384, 13, 13, 3, 3, 13, 13, 1, 2),
    }[name]


@pytest.fixture(scope="module")
def chip() -> dict[str, RowStationaryEstimate]:
    """Every layer on the chip, with the mapping that the search finds."""
    return {name: estimate(alexnet(name, 4), zeros=ZEROS[name]) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_the_search_comes_to_what_was_measured_on_the_chip(
    name: str, chip: dict[str, RowStationaryEstimate]
) -> None:
    pes, buffer, dram, milliseconds = CHIP[name]
    found = chip[name]
    assert found.active_pes == pes
    assert found.global_buffer_bytes / 1e6 == pytest.approx(buffer, abs=0.1)
    assert found.dram_bytes / 1e6 == pytest.approx(dram, rel=0.1)
    assert found.latency_seconds * 1e3 == pytest.approx(milliseconds, rel=0.2)
    assert found.bound_seconds < found.latency_seconds < found.total_seconds


def test_the_mappings_are_those_of_the_chip(chip: dict[str, RowStationaryEstimate]) -> None:
    late = Mapping(13, 16, 3, 2, 2, 64, 4)
    first, second = Mapping(7, 16, 1, 1, 2, 96, 1), Mapping(27, 16, 2, 1, 1, 64, 1)
    assert [chip[name].mapping for name in NAMES] == [first, second, late, late, late]


def test_totals_are_those_of_the_chip(chip: dict[str, RowStationaryEstimate]) -> None:
    assert sum(x.macs for x in chip.values()) == 4 * 665_784_864
    assert sum(x.global_buffer_bytes for x in chip.values()) / 1e6 == pytest.approx(208.5, abs=0.1)
    assert sum(x.latency_seconds for x in chip.values()) == pytest.approx(0.1035, rel=0.05)
    # 34.7 images a second were measured, with feature maps moved while the array waits.
    assert 4 / sum(x.total_seconds for x in chip.values()) == pytest.approx(34.7, rel=0.05)


@pytest.mark.parametrize("name", NAMES)
def test_energy_is_that_of_the_analysis(name: str) -> None:
    shape, (alu, dram, registers) = alexnet(name, 16), ANALYSIS[name]
    found = energy(estimate(shape, ISCA2016, search(shape, ISCA2016, Costs())))
    assert found.mac / 1e9 == pytest.approx(alu, rel=0.001)
    assert found.register_file / 1e9 == pytest.approx(registers, rel=0.001)
    assert found.dram / 1e9 == pytest.approx(dram, rel=0.05)
    assert found.total == pytest.approx(sum(found))


def test_freely_cut_strips_are_never_worse() -> None:
    free = ISCA2016._replace(fewest_strips=False)
    for name in NAMES[:2]:
        shape = alexnet(name, 16)
        totals = [
            energy(estimate(shape, c, search(shape, c, Costs()))).total for c in (free, ISCA2016)
        ]
        assert totals[0] <= totals[1]


def test_row_stationary_is_better_than_the_baseline_dataflows() -> None:
    totals: dict[str, float] = {}
    for name in NAMES:
        shape = alexnet(name, 16)
        best = energy(estimate(shape, ISCA2016, search(shape, ISCA2016, Costs())))
        for dataflow, found in {"RS": best, **baseline_dataflows(shape)}.items():
            totals[dataflow] = totals.get(dataflow, 0) + found.total
    worse = {dataflow: total / totals["RS"] for dataflow, total in totals.items()}
    assert set(worse) == {"RS", "WS", "OSA", "OSB", "OSC", "NLR"}
    assert all(1.4 <= factor <= 2.5 for name, factor in worse.items() if name != "RS"), worse


def test_baseline_dataflows_keep_what_their_names_say() -> None:
    shape = alexnet("CONV3", 16)
    found = baseline_dataflows(shape)
    assert {name: x.register_file / shape.macs for name, x in found.items()} == {
        "WS": 1, "OSA": 3, "OSB": 3, "OSC": 2, "NLR": 0,
    }  # fmt: skip
    assert all(x.mac == shape.macs for x in found.values())
    compulsory = 16 * 256 * 15 * 15 + shape.weights + shape.outputs
    assert all(x.dram >= 200 * compulsory for x in found.values())
    assert found["NLR"].buffer >= 6 * shape.macs and found["OSC"].buffer >= 6 * shape.macs
    assert "WS" not in baseline_dataflows(alexnet("CONV1", 64))


def code(values: list[bool]) -> int:
    """Count the 16-bit words of a run-length coded plane; a value is true where it is not zero."""
    pairs = run = 0
    for value in values:
        if value or run == 31:
            pairs, run = pairs + 1, 0
        else:
            run += 1
    return -(-(pairs + (run > 0)) // 3) * 4


@pytest.mark.parametrize(
    ("zeros", "error"),
    [(0.0, 0.01), (0.1, 0.01), (0.387, 0.01), (0.776, 0.01), (0.95, 0.02), (0.99, 0.07)],
)
@pytest.mark.parametrize("size", [169, 3025])
def test_coded_words_are_those_of_a_coder(size: int, zeros: float, error: float) -> None:
    source = random.Random(1)
    planes = 30_000 // size * 4
    real = sum(code([source.random() >= zeros for _ in range(size)]) for _ in range(planes))
    assert coded_words(size, zeros, planes) == pytest.approx(real, rel=error)


def test_zeros_save_traffic_of_dram_only_and_never_cost() -> None:
    shape = alexnet("CONV3", 4)
    mapping = search(shape)
    dense, full = (
        estimate(shape, mapping=mapping),
        estimate(shape, mapping=mapping, zeros=MapZeros(0, 0)),
    )
    sparse = estimate(shape, mapping=mapping, zeros=MapZeros(0.9, 0.9))
    counts = count(shape, EYERISS, mapping)
    assert dense.dram_bytes == 2 * counts.dram
    assert full.dram_bytes <= dense.dram_bytes
    assert 2 * counts.dram_weights < sparse.dram_bytes < full.dram_bytes / 1.5
    assert sparse.global_buffer_bytes == dense.global_buffer_bytes
    with pytest.raises(UserError, match=r"zeros.input: expected a share from 0 to 1, got 1.5"):
        estimate(shape, mapping=mapping, zeros=MapZeros(1.5, 0))


def test_dense_traffic_is_compulsory_where_all_fits() -> None:
    shape = ConvShape(2, 8, 4, 8, 8, 3, 3, 6, 6)
    counts = count(shape, EYERISS, search(shape))
    assert (counts.dram_inputs, counts.dram_weights) == (2 * 4 * 8 * 8, 8 * 4 * 9)
    assert counts.dram_outputs == 2 * 8 * 6 * 6


def test_rows_between_strips_come_again_where_the_buffer_is_full() -> None:
    shape, mapping = alexnet("CONV1", 4), Mapping(7, 16, 1, 1, 2, 96, 1)
    assert count(shape, EYERISS, mapping).dram_inputs == 4 * 3 * 227 * 227
    assert banks(shape, EYERISS, mapping) == 23 and banks(shape, EYERISS, mapping, halo=True) == 25
    small = EYERISS._replace(buffer_bytes=23 * 4096)
    assert count(shape, small, mapping).dram_inputs == 4 * 3 * 276 * 227


def every_mapping(shape: ConvShape, chip: Chip) -> Iterator[Mapping]:
    """Yield all mappings of equal tiles that fit, with no shortcut."""
    spans = [range(1, limit + 1) for limit in (shape.e, chip.psum_words, 4, 12, 12)]
    strips = {-(-shape.e // parts) for parts in spans[0]}
    for e, p, q, r, t in product(*spans):
        if e not in strips or q > shape.channels or q * (r - 1) >= shape.channels:
            continue
        for m, n in product((1, 2, 3, 4, 6, 12), (1, 2)):
            mapping = Mapping(e, p, q, r, t, m, n)
            if m % (p * t) == 0 and misfit(shape, chip, mapping) is None:
                yield mapping


@pytest.mark.parametrize("costs", [None, Costs(), Costs(dram=1)])
def test_the_search_finds_the_best_of_all(costs: Costs | None) -> None:
    shape = ConvShape(2, 12, 5, 9, 9, 3, 3, 7, 7)
    small = EYERISS._replace(buffer_bytes=1400, bank_bytes=100, filter_bytes=400)

    def rank(mapping: Mapping) -> tuple[float, ...]:
        c = count(shape, small, mapping)
        if costs is None:
            return c.dram, c.buffer, c.cycles
        return costs.price(c.macs, c.register_file, c.array, c.buffer, c.dram).total, c.cycles

    assert rank(search(shape, small, costs)) == min(map(rank, every_mapping(shape, small)))


def pass_by_pass(shape: ConvShape, mapping: Mapping) -> tuple[int, int, int]:
    """Count passes, words in and out of the buffer, and words that reach a PE, pass by pass."""
    e, p, q, r, t, _, n = mapping
    number = words = reached = 0
    for _, top in product(range(0, shape.n, n), range(0, shape.e, e)):
        high = min(e, shape.e - top)
        rows = (high - 1) * shape.stride + shape.r
        for _ in range(shape.groups):
            for first in range(0, shape.channels, q * r):
                channels = min(q * r, shape.channels - first)
                for base in range(0, shape.filters, p * t):
                    filters = min(p * t, shape.filters - base)
                    words += n * channels * rows * shape.columns
                    words += 2 * n * filters * high * shape.f
                    number += 1
                    reached += filters * channels * shape.r * shape.s * high
                    busy = -(-filters // p) * channels * shape.r * high
                    reached += n * busy * shape.columns
                    reached += n * filters * high * shape.f * (shape.r * r - 1)
    return number, words, reached


@pytest.mark.parametrize("name", NAMES)
def test_traffic_is_that_of_all_passes(name: str, chip: dict[str, RowStationaryEstimate]) -> None:
    found = chip[name]
    number, words, reached = pass_by_pass(alexnet(name, 4), found.mapping)
    assert (found.passes, found.global_buffer_bytes) == (number, 2 * words)
    assert found.array_transfers == reached


def test_a_mapping_that_does_not_fit_is_refused() -> None:
    good = search(alexnet("CONV3", 4))
    for change, message in (
        ({"r": 3}, "at most 4 sets of PEs, got 6"),
        ({"q": 4, "p": 20, "m": 80}, "at most 224 words of filter scratchpad, got 240"),
        ({"q": 5, "p": 2}, "at most 12 words of input scratchpad, got 15"),
        ({"p": 25, "q": 1}, "at most 24 words of psum scratchpad, got 25"),
        ({"m": 16}, "at most 16 filters in a tile, got 32"),
        ({"m": 96}, "at most 25 banks of buffer, got 35"),
        ({"e": 0}, "positive"),
    ):
        with pytest.raises(UserError, match=message):
            estimate(alexnet("CONV3", 4), mapping=good._replace(**change))
    with pytest.raises(UserError, match="bytes of filter buffer"):
        estimate(alexnet("CONV1", 4), mapping=Mapping(4, 18, 1, 1, 3, 54, 1))


@pytest.mark.parametrize("shape", [alexnet("CONV1", 2), alexnet("CONV3", 2)])
@pytest.mark.parametrize(
    ("change", "key"),
    [({}, "buffer_bytes"), ({"fewest_strips": True}, "buffer_bytes"), ({}, "filter_bytes")],
)
def test_a_chip_that_is_too_small_names_what_would_do(
    shape: ConvShape, change: dict[str, bool], key: str
) -> None:
    """That much does, and a byte less does not."""
    chip = EYERISS._replace(bank_bytes=16, **change)
    with pytest.raises(UserError, match=f"chip.{key}: expected at least .* got 1$") as caught:
        search(shape, chip._replace(**{key: 1}))
    least = int(str(caught.value).split("at least ")[1].split()[0].strip(","))
    assert search(shape, chip._replace(**{key: least})).p == 1
    with pytest.raises(UserError, match=f"{key}: expected at least {least}, .* got {least - 1}"):
        search(shape, chip._replace(**{key: least - 1}))


def test_a_chip_of_any_size_is_searched_at_once() -> None:
    huge = EYERISS._replace(**dict.fromkeys(("rows", "columns", "psum_words"), 10**18))
    assert search(ConvShape(1, 12, 4, 8, 8, 3, 3, 6, 6), huge).t <= 12
    tiny = EYERISS._replace(
        **dict.fromkeys(("rows", "columns", "filter_words", "input_words", "psum_words"), 1)
    )
    shape = ConvShape(1, 4, 4, 8, 8, 3, 3, 6, 6)
    assert count(shape, tiny, search(shape, tiny)).macs == shape.macs  # in pieces of 1 x 1


def test_shapes_that_cannot_be_are_refused() -> None:
    with pytest.raises(UserError, match="expected positive numbers, got 0"):
        ConvShape(0, 1, 1, 1, 1, 1, 1, 1, 1)
    with pytest.raises(UserError, match="groups: expected a divisor of m = 4 and c = 3, got 2"):
        ConvShape(1, 4, 3, 5, 5, 3, 3, 3, 3, groups=2)


def test_passes_of_training_are_convolutions() -> None:
    shape = alexnet("CONV2", 4)
    found = passes(shape)
    assert list(found) == ["forward", "backward_data", "backward_weights"]
    assert found["backward_data"] == ConvShape(4, 96, 256, 27, 27, 5, 5, 27, 27, 1, 2)
    assert found["backward_weights"] == ConvShape(48, 256, 8, 27, 27, 27, 27, 5, 5, 1, 2)
    assert {x.macs for x in found.values()} == {shape.macs}
    assert found["backward_data"].outputs == 4 * 96 * 27 * 27
    strided = passes(ConvShape(4, 6, 3, 8, 8, 2, 2, 4, 4, stride=2))
    assert {x.macs for x in strided.values()} == {4 * 6 * 3 * 2 * 2 * 4 * 4}
    assert strided["backward_data"] == ConvShape(4, 12, 6, 4, 4, 1, 1, 4, 4)
    assert strided["backward_weights"] == ConvShape(12, 6, 4, 4, 4, 4, 4, 1, 1)


@pytest.mark.parametrize(
    "shape",
    [
        ConvShape(4, 4096, 256, 6, 6, 6, 6, 1, 1),
        ConvShape(4, 1000, 4096, 1, 1, 1, 1, 1, 1),
        ConvShape(4, 64, 3, 224, 224, 7, 7, 112, 112, 2),
        ConvShape(2, 32, 32, 13, 13, 3, 3, 13, 13, 1, 32),
        ConvShape(3, 97, 7, 9, 9, 3, 3, 7, 7),
    ],
)
def test_all_passes_can_be_mapped(shape: ConvShape) -> None:
    for each in passes(shape).values():
        begin = time.process_time()
        found = estimate(each)
        assert time.process_time() - begin < 2
        assert found.active_pes <= 168 and found.macs == each.macs
        assert found.register_file_accesses == 4 * each.macs
        assert found.latency_seconds > found.bound_seconds


def test_filters_too_large_for_the_array_are_cut_into_channels() -> None:
    tall = ConvShape(1, 2, 1, 30, 5, 24, 3, 7, 3)
    twice = ConvShape(1, 2, 2, 18, 5, 12, 3, 7, 3)
    found, same = (count(x, EYERISS, Mapping(7, 1, 1, 1, 1, 2, 1)) for x in (tall, twice))
    assert found == same


def test_a_dram_link_can_be_the_limit() -> None:
    layer = estimate(ConvShape(1, 4096, 4096, 1, 1, 1, 1, 1, 1))
    assert layer.latency_seconds == pytest.approx(layer.dram_bytes / 480e6)
    assert layer.latency_seconds > layer.latency_cycles / EYERISS.clock_hz


def test_a_slow_bus_makes_the_array_wait() -> None:
    shape, mapping = ConvShape(1, 4, 1, 20, 20, 3, 3, 9, 9, stride=2), Mapping(9, 1, 1, 1, 4, 4, 1)
    cycles = [count(shape, EYERISS._replace(input_bus=bus), mapping).cycles for bus in (1, 2, 1000)]
    # A column needs 2 new values of each of 19 rows; then the ramp: filters, windows, last sums.
    assert cycles[0] == 9 * 38 + 9 + 57 + 9
    assert cycles[0] > cycles[1] > cycles[2] == 9 * 9 + 9 + 1 + 9


def test_the_model_loads_neither_mpi_nor_numpy() -> None:
    code = (
        "import sys\n"
        "from tallygrad.trainer.cost.machines.eyeriss import baseline_dataflows, row_stationary\n"
        "sys.exit(', '.join({'mpi4py', 'numpy'} & set(sys.modules)) or 0)"
    )
    answer = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
