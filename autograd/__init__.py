"""Tensors, their gradients, and a ledger of the work that both take.

    import tallygrad.autograd as ag

    model = ag.nn.Linear(2, 1)
"""

from typing import TYPE_CHECKING

from . import backends, context, models, nn, optim
from . import tape as _tape
from .backends import get_backend, set_backend
from .capture.trace import trace
from .differentiate import checkpoint, enable_grad, grad, is_grad_enabled, no_grad
from .functional.activation import (
    elu,
    leaky_relu,
    log_softmax,
    relu,
    sigmoid,
    softmax,
    softplus,
    tanh,
)
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
    sqrt,
    stack,
    where,
)
from .functional.conv import conv1d, conv2d, conv_transpose1d, conv_transpose2d
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
from .functional.dropout import dropout, dropout2d
from .functional.linear import linear, matmul
from .functional.loss import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    mse_loss,
    nll_loss,
)
from .functional.norm import batch_norm, local_response_norm
from .functional.parts import chunk, flip, split, unbind
from .functional.pool import adaptive_avg_pool2d, adaptive_max_pool2d, avg_pool2d, max_pool2d
from .functional.recurrent import lstm, lstm_cell, rnn_cell, rnn_relu, rnn_tanh
from .ledger import Cost, Ledger
from .memory import OutOfMemory, memory_in_use, set_memory_limit
from .random import manual_seed
from .saving import load, save
from .tensor import Parameter, Tensor
from .threads import get_num_threads, set_num_threads

__all__ = [
    "Cost",
    "Ledger",
    "OutOfMemory",
    "Parameter",
    "Tensor",
    "__version__",
    "adaptive_avg_pool2d",
    "adaptive_max_pool2d",
    "arange",
    "avg_pool2d",
    "backends",
    "batch_norm",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cat",
    "checkpoint",
    "chunk",
    "concatenate",
    "context",
    "conv1d",
    "conv2d",
    "conv_transpose1d",
    "conv_transpose2d",
    "cos",
    "cross_entropy",
    "dropout",
    "dropout2d",
    "elu",
    "enable_grad",
    "exp",
    "flip",
    "from_numpy",
    "full",
    "get_backend",
    "get_num_threads",
    "grad",
    "is_grad_enabled",
    "leaky_relu",
    "linear",
    "load",
    "local_response_norm",
    "log",
    "log_softmax",
    "lstm",
    "lstm_cell",
    "manual_seed",
    "matmul",
    "max_pool2d",
    "maximum",
    "memory_in_use",
    "minimum",
    "models",
    "mse_loss",
    "nll_loss",
    "nn",
    "no_grad",
    "ones",
    "ones_like",
    "optim",
    "pad",
    "rand",
    "randn",
    "relu",
    "rnn_cell",
    "rnn_relu",
    "rnn_tanh",
    "save",
    "set_backend",
    "set_memory_limit",
    "set_num_threads",
    "sigmoid",
    "sin",
    "softmax",
    "softplus",
    "split",
    "sqrt",
    "stack",
    "tanh",
    "tensor",
    "trace",
    "unbind",
    "where",
    "zeros",
    "zeros_like",
]

if TYPE_CHECKING:
    __version__: str
else:

    def __getattr__(name: str) -> str:
        if name == "__version__":
            from importlib.metadata import version

            return version("tallygrad")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


context.start(_tape.Tape(), backends.default())
