"""Which heads matter: subnetworks and, in time, how they are found and compared."""

from pathlib import Path
from runpy import run_path

import lazy_loader

run_path(str(Path(__file__).parents[1] / "models" / "_siblings.py"))

# The public names stand in __init__.pyi; each is imported when first used, so that --help is quick.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
