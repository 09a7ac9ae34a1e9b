"""Which heads matter: subnetworks, what survives over seeds, and how stable that is."""

from pathlib import Path
from runpy import run_path

import lazy_loader

run_path(str(Path(__file__).parents[1] / "models" / "_siblings.py"))

# The public names stand in __init__.pyi; each is imported when first used, so that --help is quick.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
