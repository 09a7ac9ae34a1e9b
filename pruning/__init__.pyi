from .subnetwork import Subnetwork as Subnetwork
