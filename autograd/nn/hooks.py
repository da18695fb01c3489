"""Hooks of modules: functions that a call of a module, or its backward, calls."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from .. import context
from ..hooks import RemovableHandle
from ..tensor import Tensor

Gradients = list[Tensor | None]


class Hook(NamedTuple):
    """A function that a call of a module calls."""

    function: Callable[..., Any]
    with_kwargs: bool


class Hooked:
    """What a module has of hooks."""

    _pre_hooks: tuple[Hook, ...] = ()
    _hooks: tuple[Hook, ...] = ()
    _backward_hooks: tuple[Hook, ...] = ()
    forward: Callable[..., Any]

    @property
    def has_hooks(self) -> bool:
        """Whether a call has more to do than `forward`."""
        return bool(self._hooks or self._pre_hooks or self._backward_hooks)

    def _hooked(self, *args: Any, **kwargs: Any) -> Any:
        """Call the hooks around `forward`."""
        context.not_replayable("calls hooks of a module")
        for hook in self._pre_hooks:
            changed = hook.function(self, args, *[kwargs] * hook.with_kwargs)
            if changed is not None and hook.with_kwargs:
                args, kwargs = changed
            elif changed is not None:
                args = changed if isinstance(changed, tuple) else (changed,)
        forward = partial(self.forward, **kwargs)
        for hook in self._backward_hooks:
            forward = partial(call_with_backward_hook, self, hook.function, forward)
        result = forward(*args)
        for hook in self._hooks:
            changed = hook.function(self, args, *[kwargs] * hook.with_kwargs, result)
            result = result if changed is None else changed
        return result

    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Call `hook(module, args)` before each forward; what it returns, if anything, replaces the
        arguments. With `with_kwargs`, hook(module, args, kwargs) returns both."""
        return self._register("_pre_hooks", Hook(hook, with_kwargs), prepend)

    def register_forward_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Call `hook(module, args, result)` after each forward; what it returns, if anything,
        replaces the result. With `with_kwargs` it is hook(module, args, kwargs, result)."""
        return self._register("_hooks", Hook(hook, with_kwargs), prepend)

    def register_full_backward_hook(
        self, hook: Callable[..., Any], prepend: bool = False
    ) -> RemovableHandle:
        """Call `hook(module, grad_input, grad_output)` in each backward, with tuples of the
        gradients of the positional arguments and of the results, None where there is none; what it
        returns, if anything, replaces the gradient of a single argument."""
        return self._register("_backward_hooks", Hook(hook, False), prepend)

    def _register(self, kind: str, hook: Hook, prepend: bool) -> RemovableHandle:
        hooks = getattr(self, kind)
        setattr(self, kind, (hook, *hooks) if prepend else (*hooks, hook))

        def remove() -> None:
            setattr(self, kind, tuple(h for h in getattr(self, kind) if h is not hook))

        return RemovableHandle(remove)


def call_with_backward_hook(
    module: Any, hook: Callable[..., Any], forward: Callable[..., Any], *args: Any
) -> Any:
    """Return forward(*args); a backward calls `hook(module, grad_input, grad_output)` once the
    gradients of all arguments that need one are there, or else those of the results.

    RuntimeError, in the backward, for a hook that replaces gradients of several arguments."""
    # Views: a gradient of an argument is that which comes from this call alone.
    inputs = [x.reshape(x.shape) if _differentiable(x) else x for x in args]
    result = forward(*inputs)
    outputs = result if isinstance(result, tuple | list) else (result,)
    into, out = _Gradients(inputs), _Gradients(outputs)

    def finish() -> Any:
        changed = hook(module, into.take(), out.take())
        if changed is None:
            return None
        if len(into.places) != 1:
            raise RuntimeError(
                "register_full_backward_hook: expected a hook that returns None for several "
                f"arguments, got {type(changed).__name__}"
            )
        return changed[into.places[0]] if isinstance(changed, tuple) else changed

    out.watch(outputs, None if into.places else finish)
    into.watch(inputs, finish)
    return result


def _differentiable(x: object) -> bool:
    return isinstance(x, Tensor) and x.requires_grad


class _Gradients:
    """Gradients of tensors as they come in a backward."""

    def __init__(self, tensors: Any) -> None:
        self.places = [i for i, x in enumerate(tensors) if _differentiable(x)]
        self.found: Gradients = [None] * len(tensors)

    def watch(self, tensors: Any, finish: Callable[[], Any] | None) -> None:
        """Note each gradient; call a function with the last one, whose result replaces it."""

        def note(place: int, gradient: Tensor) -> Any:
            self.found[place] = gradient
            complete = all(self.found[i] is not None for i in self.places)
            return finish() if finish and complete else None

        for i in self.places:
            tensors[i].register_hook(lambda gradient, i=i: note(i, gradient))

    def take(self) -> tuple[Tensor | None, ...]:
        """Return the gradients, and forget them for the next backward."""
        found, self.found = tuple(self.found), [None] * len(self.found)
        return found
