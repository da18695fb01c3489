"""autograd.functional at torch's place: `import tallygrad.autograd.nn.functional as F`.

Each family is named, because type checkers lose the names of a star import of star imports."""

from ..functional import __all__ as __all__
from ..functional.activation import *
from ..functional.arrange import *
from ..functional.attention import *
from ..functional.conv import *
from ..functional.create import *
from ..functional.distance import *
from ..functional.dropout import *
from ..functional.einsum import *
from ..functional.grid import *
from ..functional.image import *
from ..functional.indexing import *
from ..functional.linear import *
from ..functional.loss import *
from ..functional.norm import *
from ..functional.parts import *
from ..functional.pool import *
from ..functional.recurrent import *
from ..functional.sampling import *
from ..functional.spike import *
from ..functional.unpool import *
from ..functional.volume import *
