"""Loaders of a user's own data sets: torch's batches, in an order that all ranks know."""

from __future__ import annotations

import threading
from collections import namedtuple
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import Tensor
from tallygrad.datasets import (
    ConcatDataset,
    DataError,
    DataLoader,
    Dataset,
    ImageDataset,
    Loader,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
    random_split,
)

Point = namedtuple("Point", "x y")


class Numbers(Dataset[Any]):
    """Sample i is ((2, 2) times i, i); it counts what is read."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.labels, self.seen = [*range(count)], list[int]()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        self.seen.append(index)
        return np.full((2, 2), index, np.float32), self.labels[index]


def labels(loader: DataLoader) -> list[list[int]]:
    return [y.tolist() for _, y in loader]


def test_batches_are_tensors_and_each_epoch_has_an_order_of_its_own() -> None:
    ag.manual_seed(3)
    data = Numbers(10)
    loader = DataLoader(data, 4, True)
    assert (len(loader), len(loader.dataset), loader.batch_size) == (3, 10, 4)
    x, y = next(iter(DataLoader(data, batch_size=4)))
    assert isinstance(x, Tensor) and (x.shape, x.dtype) == ((4, 2, 2), np.float32)
    assert y.dtype == np.int64 and y.tolist() == [0, 1, 2, 3] and x[3].tolist() == [[3, 3], [3, 3]]
    first, second = labels(loader), labels(loader)
    assert [y.tolist() for _, y in loader.epoch(1, start=1)] == second[1:]
    assert [*map(len, first)] == [4, 4, 2] and first != second
    assert sorted(chain(*first)) == sorted(chain(*second)) == [*range(10)]
    assert labels(DataLoader(data, 4, shuffle=True)) == first
    assert labels(DataLoader(data, 4, True, generator=ag.Generator().manual_seed(4))) != first
    assert labels(DataLoader(data, 4, drop_last=True)) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert labels(DataLoader(data, 99)) == [[*range(10)]]  # as in torch


def test_arguments_of_torch_that_mean_nothing_here_are_accepted() -> None:
    loader = DataLoader(
        Numbers(5), 2, False, None, None, 0, None, True, False, 0, print, None, None,
        prefetch_factor=2, persistent_workers=True, pin_memory_device="cuda", in_order=False,
    )  # fmt: skip
    assert labels(loader) == [[0, 1], [2, 3], [4]]


def test_samples_are_collated_as_in_torch() -> None:
    sample = {"a": np.float32(1), "b": [1.5, "word", (True, 2)], "p": Point(ag.ones(2), b"x")}
    batch = default_collate([sample, sample])
    assert batch["a"].dtype == np.float32 and batch["a"].shape == (2,)
    numbers, words, (flags, integers) = batch["b"]
    assert numbers.dtype == np.float64 and words == ("word", "word")
    assert (flags.dtype, integers.dtype) == (np.bool_, np.int64)
    assert isinstance(batch["p"], Point) and batch["p"].x.shape == (2, 2)
    weight = ag.ones(3).requires_grad_()
    default_collate([weight, weight * 2]).sum().backward()
    assert weight.grad is not None and weight.grad.tolist() == [3, 3, 3]


@pytest.mark.parametrize(("first", "other", "message"), [
    ((np.zeros((3, 2)), 1), (np.zeros((3, 4)), 1),
     "sample 1[0]: expected shape (3, 2), as of sample 0, got (3, 4); give a collate_fn"),
    ({"x": 1}, {"y": 1}, "sample 1: expected keys ['x'], as of sample 0, got ['y']"),
    ({"x": [1]}, {"x": [1, 2]}, "sample 1['x']: expected length 1, as of sample 0, got 2"),
    (1, None, "sample 1: expected a number, as of sample 0, got NoneType"),
    (np.ones(1), 1, "sample 1: expected an array, as of sample 0, got int"),
    ({"x": 1}, 1, "sample 1: expected keys ['x'], as of sample 0, got int"),
    (None, None, "sample 0: expected tensors, arrays, numbers, texts, or tuples, lists and dictio"),
    (np.array(["a"]), np.array(["b"]), "got an array of <U1; give a collate_fn"),
])  # fmt: skip
def test_samples_that_do_not_fit_are_named(first: Any, other: Any, message: str) -> None:
    with pytest.raises(DataError) as raised:
        next(iter(DataLoader([first, other], 2)))
    assert message in str(raised.value) and "\n" not in str(raised.value)


class Broken(Numbers):
    def __getitem__(self, index: int) -> tuple[Any, int]:
        if index == 7:
            raise ValueError("no good\nat all")
        return super().__getitem__(index)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_that_fails_is_named(workers: int) -> None:
    data = Subset(ConcatDataset([Numbers(2), Broken(8)]), [1, 0, 9])
    with pytest.raises(DataError) as raised:
        [*DataLoader(data, 2, num_workers=workers)]
    assert str(raised.value) == "DataLoader: ConcatDataset[9]: ValueError: no good at all"
    assert isinstance(raised.value.__cause__, ValueError)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"batch_size": 0}, "batch_size: expected a whole number of at least 1, got 0"),
    ({"batch_size": None}, "batch_size: expected a whole number of at least 1, got None"),
    ({"batch_sampler": [[0]]}, "batch_sampler: expected None, got list; give batch_size and sam"),
    ({"shuffle": True, "sampler": [1]}, "expected shuffle=True or a sampler, got both"),
    ({"batch_size": 9, "drop_last": True}, "expected at least 9 samples with drop_last, got 4"),
    ({"dataset": []}, "expected at least one sample, got 0"),
    ({"num_workers": -1}, "num_workers: expected a whole number of at least 0, got -1"),
    ({"num_workers": 1, "prefetch_factor": -1}, "prefetch_factor: expected a whole number of at"),
    ({"sampler": iter(range(3))}, "sampler: expected one with __len__, got range_iterator"),
    ({"sampler": Subset(range(4), [0, 1, 2])}, None),
])  # fmt: skip
def test_arguments_that_do_not_fit_are_refused(arguments: Any, message: str | None) -> None:
    options = {"dataset": Numbers(4)} | arguments
    if message is None:
        assert labels(DataLoader(**options)) == [[0], [1], [2]]
        return
    with pytest.raises(DataError) as raised:
        DataLoader(**options)
    assert message in str(raised.value)


def test_other_objects_than_data_sets_are_refused() -> None:
    with pytest.raises(TypeError, match="__len__ and __getitem__, got generator"):
        DataLoader(i for i in range(3))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"ConcatDataset: .* __getitem__, got ImageDataset"):
        ConcatDataset([loaded()])
    with pytest.raises(DataError, match="an object with name, got Numbers; DataLoader takes any"):
        Loader(Numbers(3), 1)  # type: ignore[arg-type]


def test_a_thread_reads_ahead_and_draws_the_same() -> None:
    class Noisy(Numbers):
        def __getitem__(self, index: int) -> tuple[Any, int]:
            threads.add(threading.current_thread().name[:16])
            return ag.rand(2), super().__getitem__(index)[1]

    threads, drawn = set[str](), []
    for workers in (0, 2, 2):
        data = Noisy(6)
        loader = DataLoader(data, 2, shuffle=True, num_workers=workers, prefetch_factor=4)
        drawn.append([x.numpy().copy() for _ in range(2) for x, _ in loader])
        ag.rand(1)  # elsewhere, which changes nothing
    assert threads == {"MainThread", "tallygrad-loader"}
    np.testing.assert_array_equal(drawn[0], drawn[1])
    np.testing.assert_array_equal(drawn[0], drawn[2])
    assert len({*np.concatenate(drawn[0]).ravel().tolist()}) == 24  # anew in each epoch


def test_rows_of_tensors_and_collate_fn() -> None:
    x, y = ag.arange(12).reshape(6, 2), np.arange(6)
    data = TensorDataset(x, y)
    assert [a.tolist() for a in data[4]] == [[8, 9], 4]
    first, second = next(iter(DataLoader(Subset(data, [5, 0]), 2)))
    assert (first.tolist(), second.tolist()) == ([[10, 11], [0, 1]], [5, 0])
    sums = DataLoader(data, 4, collate_fn=lambda samples: sum(int(b.item()) for _, b in samples))
    assert [*sums] == [6, 9]
    weight = ag.ones(4, 1).requires_grad_()
    (batch,) = next(iter(DataLoader(TensorDataset(weight), 2)))
    assert batch.requires_grad
    for wrong in ((x, y[:3]), (), (ag.tensor(1.0),)):
        with pytest.raises(DataError, match="TensorDataset: expected tensors of one length, got"):
            TensorDataset(*wrong)


def loaded() -> ImageDataset:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 1, 3, 3), np.uint8)
    return ImageDataset("x", "train", pixels, np.arange(5), tuple("abcde"), (0.5,), (0.25,))


@pytest.mark.parametrize(
    "data",
    [
        TensorDataset(range(5), range(5)),
        loaded(),
        Subset(loaded(), range(5)),
        [*zip("abcde", range(5), strict=True)],
    ],
)
@pytest.mark.parametrize(
    "sampler",
    [
        [0.5, 2.0],
        [True, False],
        [[1, 2], [3, 4]],
        [[1, 2], [3]],
        [4, 5],
        ["1"],
    ],
)
def test_numbers_of_samples_that_do_not_fit_are_refused(data: Any, sampler: list[Any]) -> None:
    assert labels(DataLoader(data, 2, sampler=[4, -5, 0])) == [[4, 0], [0]]
    with pytest.raises(DataError) as raised:
        [*DataLoader(data, 2, sampler=sampler)]
    message = str(raised.value)
    assert "expected indices" in message or "list[5]: IndexError" in message
    if sampler != [4, 5]:
        for make in (SubsetRandomSampler, lambda indices: Subset(range(5), indices)):
            with pytest.raises(DataError, match=r"expected indices .n,. of samples, whole number"):
                make(sampler)


def test_images_that_were_loaded_are_normalised() -> None:
    images = loaded()
    pixels = images.images
    part, rest = random_split(images, [0.6, 0.4])
    assert (len(part), len(rest)) == (3, 2)
    x, y = next(iter(DataLoader(part, 3)))
    np.testing.assert_allclose(x.numpy(), (pixels[part.indices] / 255 - 0.5) / 0.25, rtol=1e-5)
    assert y.tolist() == part.indices.tolist()
    pairs = next(iter(DataLoader(images, 2, collate_fn=list)))
    assert pairs[1][0].shape == (1, 3, 3) and pairs[1][1] == 1


def test_random_split_draws_parts_that_share_nothing() -> None:
    data = Numbers(10)
    ag.manual_seed(1)
    parts = random_split(data, [0.5, 0.25, 0.25])
    assert [*map(len, parts)] == [6, 2, 2]
    assert sorted(i for part in parts for i in part.indices) == [*range(10)]
    other = random_split(data, [6, 2, 2])[0].indices.tolist()
    assert other != parts[0].indices.tolist() and parts[0][0][1] == parts[0].indices[0]
    ag.manual_seed(1)
    assert random_split(data, [6, 2, 2])[0].indices.tolist() == parts[0].indices.tolist()
    assert [*map(len, random_split(data, [10, 0]))] == [10, 0]
    for wrong in ([5, 4], [0.5, 0.6], [11, -1], []):
        with pytest.raises(DataError, match="lengths whose sum is 10, or fractions whose sum is 1"):
            random_split(data, wrong)


def test_data_sets_are_joined() -> None:
    data = ConcatDataset([Numbers(2), Numbers(3)])
    assert [data[i][1] for i in (0, 1, 2, 4, -1)] == [0, 1, 0, 2, 2] and len(data) == 5
    with pytest.raises(IndexError):
        data[5]
    with pytest.raises(DataError, match="at least one data set, got none"):
        ConcatDataset([])


def test_samples_are_drawn_in_proportion_to_their_weights() -> None:
    weights, size = np.array([0, 1, 0, 3, 0], np.float64), 8000
    sampler = WeightedRandomSampler(weights.tolist(), size)
    counts = np.bincount(sampler.order(0, 0), minlength=5)
    assert counts[[0, 2, 4]].tolist() == [0, 0, 0]
    assert abs(counts[3] / size - 0.75) < 4 * np.sqrt(0.75 * 0.25 / size)
    for word, drawn in ((0, 1), (2**64 - 1, 3)):  # where sums and products are equal
        sampler.words = lambda *_, word=word: np.full(size, word, np.uint64)  # type: ignore[misc]
        assert {*sampler.order(0, 0).tolist()} == {drawn}
    once = WeightedRandomSampler(ag.tensor([1.0, 0.0, 3.0]), 2, replacement=False)
    first = [once.order(0, epoch).tolist() for epoch in range(2000)]
    assert {*map(tuple, map(sorted, first))} == {(0, 2)}
    share = sum(order[0] == 2 for order in first) / 2000
    assert abs(share - 0.75) < 4 * np.sqrt(0.75 * 0.25 / 2000)
    tiny = WeightedRandomSampler([0.0, 1e-320, 1.0], 2, replacement=False)
    assert sorted(tiny.order(0, 0)) == [1, 2]
    for wrong in ([1.0, -1.0], [0.0], [np.nan], [], [[1.0]], [1e308, 1e308]):
        with pytest.raises(
            DataError, match=r"expected weights .n,. of at least 0 with a finite su"
        ):
            WeightedRandomSampler(wrong, 1)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="num_samples from 1 to 1 without replacement, got 2"):
        WeightedRandomSampler([1.0, 0.0], 2, replacement=False)
    with pytest.raises(DataError, match=r"num_samples from 1, got 2\.5"):
        WeightedRandomSampler([1.0, 0.0], 2.5)  # type: ignore[arg-type]


def test_samplers_choose_the_samples() -> None:
    class Backwards:
        def __iter__(self) -> Iterator[int]:
            return iter(range(4, 0, -1))

        def __len__(self) -> int:
            return 4

    assert labels(DataLoader(Numbers(6), 3, sampler=Backwards())) == [[4, 3, 2], [1]]
    loader = DataLoader(Numbers(6), 2, sampler=SubsetRandomSampler([5, 1, 3]))
    first, second = labels(loader), labels(loader)
    assert sorted(chain(*first)) == sorted(chain(*second)) == [1, 3, 5]
    generator = ag.Generator().manual_seed(9)
    drawn = [WeightedRandomSampler(np.ones(9), 9, generator=generator) for _ in range(2)]
    assert [*drawn[0]] == [*drawn[1]] != [*drawn[1]]
    assert drawn[0].order(0, 0).tolist() == drawn[0].order(1, 0).tolist()
