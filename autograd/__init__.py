"""Tensors, their gradients, and the books of the work that both take."""

from . import context as _context
from . import tape as _tape
from .differentiate import checkpoint, enable_grad, grad, is_grad_enabled, no_grad
from .functional.arrange import (
    cat,
    concatenate,
    cos,
    exp,
    log,
    maximum,
    minimum,
    pad,
    sin,
    split,
    sqrt,
    stack,
    where,
)
from .functional.create import (
    arange,
    from_numpy,
    full,
    ones,
    ones_like,
    rand,
    randn,
    tensor,
    zeros,
    zeros_like,
)
from .functional.linear import linear, matmul
from .ledger import Cost, Ledger
from .random import manual_seed
from .tensor import Parameter, Tensor

_context.start(_tape.Tape())
