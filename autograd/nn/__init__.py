"""Layers, with torch's names; initialisers; flat parameter buffers."""

from ..tensor import Parameter
from . import (
    activation,
    attention,
    boltzmann,
    containers,
    distance,
    dropout,
    embedding,
    flat,
    functional,
    image,
    init,
    layers,
    lazy,
    loss,
    module,
    narrow,
    norm,
    pool,
    quantized,
    recurrent,
    spiking,
    transformer,
    utils,
)
from .activation import *
from .attention import *
from .boltzmann import *
from .containers import *
from .distance import *
from .dropout import *
from .embedding import *
from .flat import *
from .image import *
from .layers import *
from .lazy import *
from .loss import *
from .module import *
from .narrow import *
from .norm import *
from .pool import *
from .quantized import *
from .recurrent import *
from .spiking import *
from .transformer import *

# Each file names its layers in __all__.
__all__ = ["Parameter", "functional", "init", "utils"]
__all__ += activation.__all__
__all__ += containers.__all__
__all__ += attention.__all__
__all__ += boltzmann.__all__
__all__ += distance.__all__
__all__ += dropout.__all__
__all__ += embedding.__all__
__all__ += flat.__all__
__all__ += image.__all__
__all__ += layers.__all__
__all__ += lazy.__all__
__all__ += loss.__all__
__all__ += module.__all__
__all__ += narrow.__all__
__all__ += norm.__all__
__all__ += pool.__all__
__all__ += quantized.__all__
__all__ += recurrent.__all__
__all__ += spiking.__all__
__all__ += transformer.__all__
