from . import stability as stability
from .importance import Importance as Importance
from .importance import head_importance as head_importance
from .structured import StructuredSearch as StructuredSearch
from .subnetwork import Subnetwork as Subnetwork
from .survivors import never_survivors as never_survivors
from .survivors import super_survivors as super_survivors
