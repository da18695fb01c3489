"""autograd.functional at torch's place: `import tallygrad.autograd.nn.functional as F`."""

from ..functional import *
from ..functional import __all__ as __all__
