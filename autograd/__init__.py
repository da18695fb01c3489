"""Tensors, their gradients, and a ledger of the work that both take.

For example:

    import tallygrad.autograd as ag

    model = ag.nn.Linear(2, 1)
    loss = model(ag.randn(8, 2)).sum()
    loss.backward()
    print(ag.context.current().ledger.total().macs)

Names, argument orders, shapes and defaults are torch's wherever torch has the same thing.
`functional`, `mathematics`, `reducing` and `algebra` have the functions, which are names here too;
`nn` layers, losses and initialisers; `optim` optimizers and learning-rate schedules; `models`
networks by name; `context` the backend, phase, scope, tape and ledger in use; `backends` who
computes. docs/engine.md tells how the parts fit together."""

from typing import TYPE_CHECKING

from . import amp, backends, context, cuda, functional, models, nn, optim
from . import dtypes as _dtypes
from . import primitive as _primitive
from . import recorder as _recorder
from . import tape as _tape
from . import typenames as _typenames
from .added_loss import add_loss, added_losses
from .autocast import autocast, get_autocast_dtype, is_autocast_enabled
from .backends import get_backend, set_backend
from .capture.trace import trace
from .device import device
from .differentiate import (
    checkpoint,
    enable_grad,
    grad,
    inference_mode,
    is_grad_enabled,
    no_grad,
    set_grad_enabled,
)
from .functional.activation import *
from .functional.arrange import *
from .functional.attention import *
from .functional.conv import *
from .functional.create import *
from .functional.distance import *
from .functional.dropout import *
from .functional.einsum import *
from .functional.grid import *
from .functional.image import *
from .functional.indexing import *
from .functional.linear import *
from .functional.loss import *
from .functional.norm import *
from .functional.parts import *
from .functional.pool import *
from .functional.recurrent import *
from .functional.sampling import *
from .functional.spike import *
from .functional.unpool import *
from .functional.volume import *
from .ledger import Cost, Ledger
from .memory import OutOfMemory, memory_in_use, set_memory_limit
from .methods import algebra, derived, mathematics, reducing
from .methods.algebra import *
from .methods.derived import *
from .methods.mathematics import *
from .methods.reducing import *
from .quantize import quantize
from .random import Generator, initial_seed, manual_seed
from .saving import load, save
from .tensor import Parameter, Tensor
from .threads import get_num_threads, set_num_threads
from .typenames import *
from .typenames import bool as bool
from .typenames import float as float
from .typenames import int as int

__all__ = [
    "Cost",
    "Generator",
    "Ledger",
    "OutOfMemory",
    "Parameter",
    "Tensor",
    "__version__",
    "add_loss",
    "added_losses",
    "amp",
    "autocast",
    "backends",
    "checkpoint",
    "context",
    "cuda",
    "device",
    "enable_grad",
    "get_autocast_dtype",
    "get_backend",
    "get_num_threads",
    "grad",
    "inference_mode",
    "initial_seed",
    "is_autocast_enabled",
    "is_grad_enabled",
    "load",
    "manual_seed",
    "memory_in_use",
    "models",
    "nn",
    "no_grad",
    "optim",
    "quantize",
    "save",
    "set_backend",
    "set_grad_enabled",
    "set_memory_limit",
    "set_num_threads",
    "trace",
]
# Each family of functions names its own in __all__.
__all__ += functional.__all__
__all__ += algebra.__all__
__all__ += derived.__all__
__all__ += mathematics.__all__
__all__ += reducing.__all__
__all__ += _typenames.__all__

if TYPE_CHECKING:
    __version__: str
    bfloat16: _dtypes.DType
else:

    def __getattr__(name):
        if name == "bfloat16":  # ImportError where ml_dtypes is not installed
            return _dtypes.bfloat16()
        if name == "__version__":
            from importlib.metadata import version

            return version("tallygrad")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


context.start(_tape.Tape(), backends.default())
_primitive.record_with(_recorder.record)
