from . import stability as stability
from .subnetwork import Subnetwork as Subnetwork
from .survivors import never_survivors as never_survivors
from .survivors import super_survivors as super_survivors
