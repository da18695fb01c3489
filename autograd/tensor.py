"""Tensor: an Array that knows how it was computed, with the operators that people expect."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import numpy as np
import numpy.typing as npt

from . import context
from .array import Array, Size, Spec, array
from .device import CPU, device
from .dtypes import FLOAT32, INT64, holds, is_floating
from .hooks import RemovableHandle
from .methods.creating import Creating
from .methods.inplace import InPlace
from .methods.named import Methods
from .methods.operators import Operand
from .methods.reading import Reading
from .methods.selecting import Selecting
from .ops import update
from .ops.elementwise import copy as clone
from .ops.shape import converted, full
from .primitive import Value
from .tape import Record, Source, Sweep

# What `data` returned of each array.
_given: WeakKeyDictionary[Array, WeakSet[Tensor]] = WeakKeyDictionary()


class Tensor(InPlace, Selecting, Creating, Methods, Reading):
    """Numbers with a history. `array` is an Array handle; numbers leave through `numpy()`, `item()`
    and `tolist()`. `source` is (record, position) for a computed tensor, None for a leaf.

    A leaf with `requires_grad` accumulates `grad` in each backward; in `slot`, an Array of the same
    shape, where one was given (a slice of a flat buffer). `hooks` see a gradient before it is
    added, `post_grad_hooks` the leaf after its gradient is final."""

    __slots__ = (
        "__weakref__", "_grad", "array", "hooks", "post_grad_hooks", "requires_grad", "slot",
        "source",
    )  # fmt: skip
    __array_ufunc__ = None
    is_parameter = False

    def __init__(
        self, data: Array, requires_grad: bool = False, source: tuple[Record, int] | None = None
    ) -> None:
        if not isinstance(data, Array):
            raise TypeError(f"Tensor: expected an Array, got {type(data).__name__}; see tensor()")
        if requires_grad and not is_floating(data.spec.dtype):
            raise TypeError(f"requires_grad: expected a floating-point tensor, got {data.dtype}")
        self.array = data
        self.requires_grad = requires_grad
        self.source = source
        self._grad: Tensor | None = None
        self.slot: Array | None = None
        self.hooks: list[Callable[[Tensor], Tensor | None]] = []
        self.post_grad_hooks: list[Callable[[Tensor], None]] = []

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents."""
        return self.array.spec.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type."""
        return self.array.spec.dtype

    @property
    def device(self) -> device:
        """The CPU, the only device that there is."""
        return CPU

    @property
    def spec(self) -> Spec:
        """Shape and element type."""
        return self.array.spec

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> Size:
        """Number of elements. Called, the shape or one extent of it, as in torch: `x.size(0)`."""
        return Size(self.shape)

    @property
    def grad(self) -> Tensor | None:
        """The accumulated gradient, None before the first. TypeError or ValueError for one that
        does not fit."""
        return self._grad

    @grad.setter
    def grad(self, gradient: Tensor | None) -> None:
        if gradient is not None:
            if not isinstance(gradient, Tensor):
                raise TypeError(f"grad: expected a Tensor or None, got {type(gradient).__name__}")
            if gradient.array.spec != self.array.spec:
                raise ValueError(
                    f"grad: expected shape {self.shape} of {self.dtype}, "
                    f"got {gradient.shape} of {gradient.dtype}"
                )
        self._grad = gradient

    @property
    def data(self) -> Tensor:
        """The same memory without history, as by `detach`. Setting it writes other numbers to the
        memory, also while gradients are recorded, and what `data` was before keeps the old ones:
        TypeError or ValueError for a tensor that does not fit."""
        given = self.detach()
        _given.setdefault(self.array, WeakSet()).add(given)
        context.gives(given)
        return given

    @data.setter
    def data(self, value: Tensor) -> None:
        if not isinstance(value, Tensor):
            raise TypeError(f"data: expected a Tensor, got {type(value).__name__}")
        if value.spec != self.spec:
            raise ValueError(
                f"data: expected shape {self.shape} of {self.dtype}, "
                f"got {value.shape} of {value.dtype}"
            )
        if value.array is self.array:
            return
        for given in _given.pop(self.array, ()):
            if given.array is self.array:
                given.rebind(given.clone().array)
        self.detach().copy_(value.detach())

    @property
    def is_leaf(self) -> bool:
        """True where no record produced this tensor."""
        return self.source is None

    def rebind(self, data: Array) -> None:
        """Give the tensor another array; functions that `trace` returned trace their calls anew."""
        self.array = data

    def lifted(self, value: Operand) -> Array:
        """Return an operand as an array; a number takes the tensor's type if that can hold it."""
        return lift(value, self.dtype)

    def wrap(self, numbers: npt.NDArray[Any] | Array) -> Tensor:
        """Return other numbers as a tensor."""
        return Tensor(numbers if isinstance(numbers, Array) else array(numbers))

    def become(self, result: Tensor) -> None:
        """Take over the numbers and the history of another tensor."""
        self.array, self.source, self.requires_grad = result.array, result.source, True

    def detach(self) -> Tensor:
        """Return a tensor on the same memory without history."""
        context.reads(self)
        return Tensor(self.array)

    def detach_(self) -> Tensor:
        """Forget the history, and that a gradient is wanted. Return self."""
        context.reads(self)
        self.source, self.requires_grad = None, False
        return self

    def requires_grad_(self, on: bool = True) -> Tensor:
        """Switch the accumulation of a gradient on or off. Return self. RuntimeError for a computed
        tensor, TypeError for one that is not floating-point."""
        if self.source is not None:
            raise RuntimeError(
                "requires_grad_: expected a leaf, got a computed tensor; detach() it first"
            )
        if on and not is_floating(self.dtype):
            raise TypeError(f"requires_grad_: expected a floating-point tensor, got {self.dtype}")
        self.requires_grad = on
        return self

    def backward(
        self,
        gradient: Tensor | None = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
    ) -> None:
        """Sweep back from this tensor and add to `grad` of every leaf that it depends on.

        `gradient` has this tensor's shape; it is 1 by default, for a single number only. The
        history is freed unless `retain_graph` is set; with `create_graph` the gradients have a
        history of their own. RuntimeError for a tensor without history or a missing `gradient`."""
        sweep([self], [gradient], None, bool(create_graph or retain_graph), create_graph)

    def deliver(self, gradient: Value) -> None:
        """Take the gradient of one sweep, which is final: called by the sweep."""
        delivered, observer = self.hooked(gradient), context.current().observer
        if observer is not None:
            observer.deliver(self)
        if self.slot is not None:
            delivered = self._add_to_slot(self.slot, delivered)
        elif self.grad is None:
            delivered = clone(delivered)  # of its own: the sweep's arrays may be shared, or views
        else:
            delivered = self.grad + delivered
        self._grad = delivered
        if observer is None:
            self.announce()
        # A recording must call the hooks in each replay, so the observer decides when they run.
        elif self.post_grad_hooks:
            observer.announce(self)

    def announce(self) -> None:
        """Call `post_grad_hooks`: the gradient is final."""
        for hook in self.post_grad_hooks:
            hook(self)

    def hooked(self, gradient: Value) -> Tensor:
        """Return a gradient as the hooks change it. ValueError for a hook that changes its
        shape."""
        gradient = converted(gradient, self.dtype)
        hooked = gradient if isinstance(gradient, Tensor) else Tensor(gradient)
        for hook in self.hooks:
            changed = hook(hooked)
            hooked = hooked if changed is None else changed
        if hooked.shape != self.shape:
            raise ValueError(f"hook: expected a gradient of shape {self.shape}, got {hooked.shape}")
        return hooked

    def _add_to_slot(self, slot: Array, gradient: Tensor) -> Tensor:
        """Write a gradient to its slot, adding to what `grad` holds."""
        if self.grad is None:
            update.store(slot, gradient.array)
            return gradient if gradient.source else Tensor(slot)
        if self.grad.array is not slot:  # set by hand, clipped for example
            update.store(slot, self.grad.array)
        update.accumulate(slot, gradient.array)
        return self.grad + gradient if gradient.source else Tensor(slot)

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
        """Call `hook(gradient)` in each backward; what it returns, if anything, replaces the
        gradient. The handle removes the hook. RuntimeError for a tensor that requires
        no gradient."""
        if not self.requires_grad:
            raise RuntimeError(
                "register_hook: expected a tensor that requires a gradient, got one without"
            )
        if self.source is None:
            self.hooks.append(hook)
            return RemovableHandle(lambda: self.hooks.remove(hook))
        context.not_replayable("hooks a gradient of its own")
        record, position = self.source

        def inner(gradient: Value) -> Value | None:
            wrapped = isinstance(gradient, Tensor)
            changed = hook(gradient if wrapped else Tensor(gradient))
            return changed if wrapped or changed is None else changed.array

        record.hooks = record.hooks or {}
        hooks = record.hooks.setdefault(position, [])
        hooks.append(inner)
        return RemovableHandle(lambda: hooks.remove(inner))

    def retain_grad(self) -> None:
        """Keep `grad` on a computed tensor, too."""
        if self.source is not None and not self.hooks:
            # The tensor holds its record, and the record the hook: a strong reference back would be
            # a cycle.
            me = weakref.ref(self)

            def keep(gradient: Tensor) -> None:
                tensor = me()
                if tensor is not None:
                    tensor.grad = gradient if tensor.grad is None else tensor.grad + gradient

            self.register_hook(keep)
            self.hooks.append(keep)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len: expected a tensor of at least one axis, got shape ()")
        return self.shape[0]

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        """Copy a leaf with its numbers, gradient and slot, without its hooks."""
        if self.source is not None:
            raise RuntimeError(
                "deepcopy: expected a leaf, got a computed tensor; detach() it first"
            )
        context.reads_numbers()
        twin = type(self)(deepcopy(self.array, memo), self.requires_grad)
        memo[id(self)] = twin
        twin.slot, twin.grad = deepcopy((self.slot, self.grad), memo)
        return twin

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))


class Parameter(Tensor):
    """A leaf that training changes: work on gradients towards it counts as backward_weights."""

    __slots__ = ()
    is_parameter = True

    def __init__(self, data: Array | Tensor, requires_grad: bool = True) -> None:
        super().__init__(data.array if isinstance(data, Tensor) else data, requires_grad)


def lift(value: Operand, dtype: np.dtype[Any]) -> Array:
    """Return an operand as an array. A Python number takes `dtype` where that can hold it, else
    float32 or int64. TypeError for anything else."""
    if isinstance(value, Tensor):
        context.reads(value)
        return value.array
    if isinstance(value, float) and not is_floating(dtype):
        return array(value, FLOAT32)
    if type(value) is int and not holds(dtype, value):
        return array(value, INT64)
    if isinstance(value, bool | int | float):
        return array(value, dtype)
    if isinstance(value, np.ndarray | np.generic):
        return array(value)
    raise TypeError(f"expected a tensor, an array or a number, got {type(value).__name__}")


def source_of(a: Any) -> Source | None:
    """Return the source of an argument, a leaf being its own; None without requires_grad."""
    if isinstance(a, Tensor) and a.requires_grad:
        return a.source or (a, 0)
    return None


def origin(tensor: Tensor) -> Source | None:
    """Return the source of a tensor, and mark a parameter's storage as persistent."""
    if tensor.is_parameter:
        tensor.array.storage.persistent = True
    return source_of(tensor)


def sweep(
    outputs: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
    inputs: Sequence[Tensor] | None,
    retain: bool,
    create_graph: bool,
) -> list[Tensor | None]:
    """Run one reverse pass from the outputs; return the gradients of the inputs, or deliver to the
    leaves where inputs is None. RuntimeError for an output without a history or a seed."""
    if any(g is not None and not isinstance(g, Tensor) for g in gradients):
        raise TypeError("backward: a gradient must be a tensor")
    origins = [_started(y) for y in outputs]
    targets = None if inputs is None else [o for t in inputs if (o := origin(t))]
    roots = [o[0] for o in origins if isinstance(o[0], Record)]
    run = Sweep(roots, targets, retain, _wrapped if create_graph else None)
    with context.using(phase="backward_data", tape=None):
        for y, start, gradient in zip(outputs, origins, gradients, strict=True):
            seed = _seed(y, gradient)
            run.send(start, seed if create_graph else seed.array)
    swept = run.run()
    if inputs is not None:
        return [_gradient_of(t, swept) for t in inputs]
    with context.using(phase="backward_data", tape=None):
        for y in outputs:  # no record reads an output that is a leaf: the sweep did not pass it
            if y.source is None and (id(y), 0) in run.gradients:
                y.deliver(run.gradients.pop((id(y), 0)))
    return []


def _gradient_of(tensor: Tensor, gradients: dict[tuple[int, int], Value]) -> Tensor | None:
    """Return the gradient of an input of a sweep. Hooks of computed tensors ran in the sweep; those
    of leaves run now that the gradient is final."""
    source = origin(tensor)
    gradient = None if source is None else gradients.get((id(source[0]), source[1]))
    if gradient is None:
        return None
    if not tensor.is_leaf:
        gradient = converted(gradient, tensor.dtype)
        return gradient if isinstance(gradient, Tensor) else Tensor(gradient)
    return tensor.hooked(gradient)


def _started(y: Tensor) -> Source:
    """Return where a sweep from an output starts."""
    start = origin(y)
    if start is None:
        raise RuntimeError("backward: the tensor does not depend on anything that requires_grad")
    return start


def _wrapped(a: Array, source: Source | None) -> Tensor:
    """Return a saved array as the tensor that it was, so that its history continues."""
    if source is None or not is_floating(a.dtype):
        return Tensor(a)
    if isinstance(source[0], Tensor):
        return source[0]
    assert isinstance(source[0], Record)
    return Tensor(a, True, (source[0], source[1]))


def _seed(y: Tensor, gradient: Tensor | None) -> Tensor:
    """Return the gradient that a sweep starts with, 1 for a single number."""
    if gradient is None:
        if y.spec.size != 1:
            raise RuntimeError(
                f"backward: expected a single number, got shape {y.shape}; pass gradient="
            )
        return Tensor(full(shape=y.shape, dtype=y.dtype, value=1.0))
    if gradient.spec != y.spec:
        raise ValueError(f"backward: expected a gradient {y.spec}, got {gradient.spec}")
    return gradient
