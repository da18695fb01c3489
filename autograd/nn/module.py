"""Module: parameters, buffers and other modules, each under one name, and a forward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt

from .. import context
from ..array import Array, NDArray, array
from ..capture.observer import Changes
from ..device import Device, check_device, target_type
from ..dtypes import FLOAT32, FLOAT64, DType, as_dtype, bfloat16, is_floating, plain
from ..ledger import Ledger
from ..ops.shape import cast
from ..ops.update import store
from ..suggest import unknown
from ..tensor import Parameter, Tensor
from .buffer import Buffer
from .errors import IncompatibleKeys, compare
from .hooks import Hooked
from .options import unusual_options

__all__ = ["Buffer", "Module"]

T = TypeVar("T")


def convert(name: str, t: Tensor, dtype: DType) -> None:
    """Give a floating-point parameter or buffer another type. RuntimeError where an optimizer has
    laid it into a flat buffer."""
    if is_floating(t.dtype) and t.dtype != dtype:
        if t.slot is not None:
            raise RuntimeError(f"{name}: change its type before building the optimizer")
        with context.using(ledger=Ledger(), tape=None):
            t.rebind(cast(t.array, dtype=dtype))
            t.grad = None


class Module(Hooked):
    """Base of every layer and model.

    Attributes that are Parameters or Modules belong to the module under the attribute's name;
    `register_buffer` adds tensors that are state but not trained. In the place of each only its
    like may be set, or None; TypeError otherwise.

    A call enters the scope of the name under which the parent holds the module, so that the ledger
    files work under the names of `named_modules`; the outermost module's name is "". A container's
    modules may also be called from outside of it: their scope has the container's name in front."""

    training: bool = True
    shown: tuple[str, ...] = ()  # attributes that repr() shows
    ignored: tuple[str, ...] = ()  # names that a state may have here to no effect
    _name: str = ""
    _buffers: Mapping[str, bool] = {}  # name: whether state_dict has it
    _parameters: frozenset[str] = frozenset()  # names, of those that are None too

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Buffer):
            self._buffers = {**self._buffers, name: value.persistent}
        elif isinstance(value, Parameter):
            self._parameters |= {name}
        elif value is not None and (kind := self._kind(name)) and not isinstance(value, kind):
            raise TypeError(
                f"{type(self).__name__}.{name}: expected a {kind.__name__} or None, got "
                f"{type(value).__name__}; to write numbers into it: with no_grad(): x.copy_(y)"
            )
        super().__setattr__(name, value)
        if isinstance(value, Module):
            value._called(self._inner(name))
        Changes.count += 1

    def _kind(self, name: str) -> type | None:
        """Return what may be set under a name besides Parameters, None for anything."""
        if name in self._parameters:
            return Parameter
        if name in self._buffers:
            return Tensor
        return Module if isinstance(vars(self).get(name), Module) else None

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        if name in self._parameters:
            self._parameters -= {name}
        if name in self._buffers:
            self._buffers = {k: v for k, v in self._buffers.items() if k != name}
        Changes.count += 1

    def _inner(self, name: str) -> str:
        """Return the scope that a call of the child `name` enters."""
        return name

    def _called(self, name: str) -> None:
        """Take the name that the parent gives."""
        super().__setattr__("_name", name)

    def add_module(self, name: str, module: Module | None) -> None:
        """Hold a module, or None in the place of one, under a name.

        TypeError for anything else, ValueError for an empty name or one with a dot."""
        _check_registration("module", name, module, Module)
        setattr(self, name, module)

    register_module = add_module

    def get_submodule(self, target: str) -> Module:
        """Return the module of a full name, itself for "". AttributeError where there is none."""
        return _found("module", target, dict(self._walk("")))

    def get_parameter(self, target: str) -> Parameter:
        """Return the parameter of a full name. AttributeError where there is none."""
        return _found("parameter", target, dict(self.named_parameters()))

    def get_buffer(self, target: str) -> Tensor:
        """Return the buffer of a full name. AttributeError where there is none."""
        return _found("buffer", target, dict(self.named_buffers()))

    def register_parameter(self, name: str, parameter: Parameter | None) -> None:
        """Hold a parameter, or None in the place of one, under a name.

        TypeError for anything else, ValueError for an empty name or one with a dot."""
        _check_registration("parameter", name, parameter, Parameter)
        self._parameters |= {name}
        setattr(self, name, parameter)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Hold a tensor that is not trained, or None for now; `state_dict` has it if `persistent`.

        TypeError for anything else, ValueError for an empty name or one with a dot."""
        _check_registration("buffer", name, tensor, Tensor)
        setattr(self, name, tensor)
        self._buffers = {**self._buffers, name: persistent}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._run(self._name, *args, **kwargs)

    def _run(self, scope: str, /, *args: Any, **kwargs: Any) -> Any:
        state = context.current()
        if state.observer is not None:
            state.observer.called(self)
        forward = self._hooked if self.has_hooks else self.forward
        if not scope:
            return forward(*args, **kwargs)
        token = context.enter(state.inside(scope))
        try:
            return forward(*args, **kwargs)
        finally:
            context.leave(token)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the results. Every subclass defines it; callers call the module itself."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Yield (name, module) for the modules held directly."""
        return ((k, v) for k, v in vars(self).items() if isinstance(v, Module))

    def children(self) -> Iterator[Module]:
        """Yield the modules held directly."""
        return (module for _, module in self.named_children())

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """Yield (full name, module) for this module and all below it, a shared one once."""
        visited: set[int] = set()
        for name, module in self._walk(prefix):
            if id(module) not in visited:
                visited.add(id(module))
                yield name, module

    def _walk(self, prefix: str) -> Iterator[tuple[str, Module]]:
        yield prefix, self
        for name, child in self.named_children():
            yield from child._walk(joined(prefix, name))

    def modules(self) -> Iterator[Module]:
        """Yield this module and all below it."""
        return (module for _, module in self.named_modules())

    def _own(self, what: type[Tensor]) -> Iterator[tuple[str, Tensor]]:
        for name, value in vars(self).items():
            if isinstance(value, Parameter):
                if what is Parameter:
                    yield name, value
            elif what is Tensor and name in self._buffers and value is not None:
                yield name, value

    def _all(self, what: type[Tensor], prefix: str) -> Iterator[tuple[str, Tensor]]:
        visited: set[int] = set()
        for path, module in self.named_modules(prefix):
            for name, value in module._own(what):
                if id(value) not in visited:
                    visited.add(id(value))
                    yield joined(path, name), value

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """Yield (full name, parameter), a shared one once, under its first name."""
        return ((name, p) for name, p in self._all(Parameter, prefix) if isinstance(p, Parameter))

    def parameters(self) -> Iterator[Parameter]:
        """Yield every parameter once."""
        return (p for _, p in self.named_parameters())

    def named_buffers(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """Yield (full name, buffer)."""
        return self._all(Tensor, prefix)

    def buffers(self) -> Iterator[Tensor]:
        """Yield every buffer."""
        return (b for _, b in self.named_buffers())

    def train(self, mode: bool = True) -> Self:
        """Set `training` here and below, for dropout and batch statistics. Return self."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Set `training` to False here and below. Return self."""
        return self.train(False)

    def apply(self, function: Callable[[Module], object]) -> Self:
        """Call a function with every module, children before parents. Return self."""
        for module in reversed([*self.modules()]):
            function(module)
        return self

    def requires_grad_(self, on: bool = True) -> Self:
        """Switch the gradients of all parameters on or off. Return self."""
        for p in self.parameters():
            p.requires_grad_(on)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parameters; the next backward writes instead of adding.

        They are None then, whatever `set_to_none` is."""
        for p in self.parameters():
            p.grad = None

    def _state(self) -> dict[str, Tensor]:
        """Map every name that `state_dict` has to its tensor; a shared tensor has several names."""
        state: dict[str, Tensor] = {}
        for path, module in self._walk(""):
            buffers = [(k, b) for k, b in module._own(Tensor) if module._buffers[k]]
            own = [*module._own(Parameter), *buffers]
            state.update({joined(path, name): t for name, t in own})
        return state

    def state_dict(self) -> dict[str, NDArray]:
        """Return copies of the numbers of parameters and persistent buffers by full name."""
        return {name: np.array(t, order="C") for name, t in self._state().items()}

    def load_state_dict(
        self, state: Mapping[str, npt.ArrayLike], strict: bool = True
    ) -> IncompatibleKeys:
        """Write saved numbers into parameters and buffers; return `missing_keys` and
        `unexpected_keys`.

        Types are converted. ValueError that lists every wrong shape and, if strict, every missing
        and extra name, or that names read-only memory; then nothing is loaded."""
        mine = self._state()
        idle = {joined(path, name) for path, m in self._walk("") for name in m.ignored}
        arrays = {name: np.asarray(value) for name, value in state.items() if name not in idle}
        shapes = {name: t.shape for name, t in mine.items()}
        result = compare("state", shapes, {k: v.shape for k, v in arrays.items()}, strict)
        for name in mine.keys() & arrays.keys():
            mine[name].array.check_writable(name)
        for name in mine.keys() & arrays.keys():
            assign(mine[name], array(arrays[name], mine[name].dtype))
        return result

    def astype(self, dtype: npt.DTypeLike) -> Self:
        """Convert parameters and floating-point buffers to another type, in memory of their own.

        Return self. RuntimeError for parameters that an optimizer has laid into a flat buffer:
        convert the model before building the optimizer."""
        target_dtype = as_dtype(dtype)
        for name, t in [*self.named_parameters(), *self.named_buffers()]:
            convert(name, t, target_dtype)
        return self

    def to(
        self,
        target: npt.DTypeLike | Tensor | Device = None,
        dtype: npt.DTypeLike | None = None,
        non_blocking: bool = False,
        *,
        device: Device = None,
    ) -> Self:
        """Convert to another type, see `astype`; for the device "cpu", the only one that there is,
        change nothing. Return self."""
        wanted = target_type(target, dtype, device)
        return self if wanted is None else self.astype(wanted)

    def cpu(self) -> Self:
        """Return self: there is no other device."""
        return self

    def cuda(self, device: object = None) -> Self:
        """ValueError: there is no such device."""
        check_device("cuda")
        return self

    def float(self) -> Self:
        """Make parameters and buffers float32. Return self."""
        return self.astype(FLOAT32)

    def bfloat16(self) -> Self:
        """Make parameters and buffers bfloat16. ImportError where ml_dtypes is not installed."""
        return self.astype(bfloat16())

    def double(self) -> Self:
        """Make parameters and buffers float64. Return self."""
        return self.astype(FLOAT64)

    def extra_repr(self) -> str:
        """Return what repr() shows in brackets before the children: by default the attributes in
        `shown`, and where there are any, options that differ from the constructor's defaults."""
        options = {name: plain(getattr(self, name)) for name in self.shown}
        if options:
            options |= unusual_options(self, self.shown)
        return ", ".join(f"{name}={value!r}" for name, value in options.items())

    def __repr__(self) -> str:
        lines = [f"({name}): {child!r}" for name, child in self.named_children()]
        inner = self.extra_repr()
        if not lines:
            return f"{type(self).__name__}({inner})"
        body = "\n".join([*filter(None, [inner]), *lines]).replace("\n", "\n  ")
        return f"{type(self).__name__}(\n  {body}\n)"


def _check_registration(what: str, name: str, value: object, kind: type) -> None:
    if not name or "." in name:
        raise ValueError(f"register_{what}: expected a name without dots, got {name!r}")
    if value is not None and not isinstance(value, kind):
        expected = f"{kind.__name__} or None"
        raise TypeError(f"{name}: expected a {expected}, got {type(value).__name__}")


def _found(what: str, target: str, every: Mapping[str, T]) -> T:
    if target not in every:
        raise AttributeError(str(unknown(what, target, every)))
    return every[target]


def joined(path: str, name: str) -> str:
    """Return the full name of what a module holds under a name."""
    return f"{path}.{name}" if path else name


def assign(target: Tensor, numbers: Array) -> None:
    """Write numbers into a tensor's memory without counting it, since it is no part of any step."""
    with context.using(ledger=Ledger(), tape=None):
        store(target.array, numbers)
