"""Learning rates by torch's names: each `step()` sets the rate of an optimizer's groups.

The rate of an epoch follows from the initial rate. Where something else has changed the rate
meanwhile, such as another scheduler, it is multiplied by the same factor instead. An epoch is
whatever lies between two calls of `step()`."""

from . import combined, cycles, decay, plateau
from .base import LRScheduler
from .combined import *
from .cycles import *
from .decay import *
from .plateau import *

__all__ = ["LRScheduler"]
__all__ += combined.__all__
__all__ += cycles.__all__
__all__ += decay.__all__
__all__ += plateau.__all__
