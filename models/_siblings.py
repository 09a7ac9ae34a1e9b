"""Run by every room's ``__init__``: the four rooms must come from one installation.

Their names are generic words, so a user's own ``models`` package can hide ours (and would then be
imported half-way). The check costs a path look-up and imports nothing.
"""

from importlib.util import find_spec
from pathlib import Path

_HOME = Path(__file__).resolve().parents[1]

for _room in ("models", "patterns", "annotations", "pruning"):
    _spec = find_spec(_room)
    _origin = _spec.origin if _spec else None
    if _spec is not None and _origin is None:  # a plain folder without __init__.py
        _origin = str(Path(next(iter(_spec.submodule_search_locations or ["?"]))) / "(no __init__.py)")
    if _origin is None or Path(_origin).resolve().parents[1] != _HOME:
        raise ImportError(
            f"headscope's package {_room!r} in {_HOME} is hidden by {_origin}: rename or move that one, "
            "start Python from another folder, or install headscope in an environment of its own "
            "(pipx, uv tool, or a virtual environment)."
        )
