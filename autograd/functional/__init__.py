"""The functions of tallygrad.autograd, with torch.nn.functional's names and argument order."""

from . import (
    activation,
    arrange,
    attention,
    conv,
    create,
    distance,
    grid,
    image,
    indexing,
    loss,
    norm,
    parts,
    pool,
    recurrent,
    sampling,
    unpool,
    volume,
)
from . import dropout as dropout_names
from . import einsum as einsum_names
from . import linear as linear_names
from . import spike as spike_names
from .activation import *
from .arrange import *
from .attention import *
from .conv import *
from .create import *
from .distance import *
from .dropout import *
from .einsum import *
from .grid import *
from .image import *
from .indexing import *
from .linear import *
from .loss import *
from .norm import *
from .parts import *
from .pool import *
from .recurrent import *
from .sampling import *
from .spike import *
from .unpool import *
from .volume import *

# Each family of functions names its own in __all__.
__all__: list[str] = []
__all__ += activation.__all__
__all__ += arrange.__all__
__all__ += attention.__all__
__all__ += conv.__all__
__all__ += create.__all__
__all__ += distance.__all__
__all__ += dropout_names.__all__
__all__ += einsum_names.__all__
__all__ += grid.__all__
__all__ += image.__all__
__all__ += indexing.__all__
__all__ += linear_names.__all__
__all__ += loss.__all__
__all__ += norm.__all__
__all__ += parts.__all__
__all__ += pool.__all__
__all__ += recurrent.__all__
__all__ += sampling.__all__
__all__ += spike_names.__all__
__all__ += unpool.__all__
__all__ += volume.__all__
