from . import stability as stability
from .controls import Bad as Bad
from .controls import bad_subnetwork as bad_subnetwork
from .controls import random_subnetworks as random_subnetworks
from .controls import super_bad_subnetwork as super_bad_subnetwork
from .subnetwork import Subnetwork as Subnetwork
from .survivors import never_survivors as never_survivors
from .survivors import super_survivors as super_survivors
