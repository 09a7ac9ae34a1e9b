"""What headscope's docstrings need of Sphinx: sentences with colons, defaults that are made, names that are not public.

A public docstring may name what is none of a room's public names, and has no place in these pages then. It is shown
as code if it is there, and is an error of the build (``-n -W``) if it is not.
"""

from __future__ import annotations

import pkgutil
from typing import Any

from docutils import nodes
from sphinx.addnodes import desc_signature, pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment


def keep_sentences(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Keep napoleon from taking what is before a colon for the type of an attribute."""
    if what in ("attribute", "data", "property") and lines:
        lines[:0] = ["..", ""]  # an empty comment, so that the first line has no colon


def readable_defaults(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Say ``...`` for a default that a dataclass makes, which is no Python and would leave all unparsed."""
    return signature and signature.replace("<factory>", "..."), returns


def shown_as_code(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.Element
) -> nodes.Element | None:
    """Return the text of a reference to what these pages do not show; None if there is no such thing."""
    if node.get("refdomain") != "py":
        return None
    place = _place(node)
    if place is None:
        return contnode
    target = node["reftarget"]
    return (
        contnode if any(_is_there(name) for name in (target, *(f"{one}.{target}" for one in place))) else None
    )


def _place(node: pending_xref) -> list[str] | None:
    """Return what the docstring of a reference may take names from: its module, its class.

    None in a signature, where mypy has looked.
    """
    parent: Any = node
    while parent is not None and "docstring of " not in str(parent.source):
        parent = parent.parent
        if parent is None or isinstance(parent, desc_signature):
            return None
    name = str(parent.source).rpartition("docstring of ")[2]
    found = []
    while "." in name:
        obj = _resolved(name)
        if module := getattr(obj, "__module__", None):
            found += [module, f"{module}.{getattr(obj, '__qualname__', '')}"]
        name = name.rpartition(".")[0]
    return [*found, name]


def _resolved(name: str) -> Any:
    try:
        return pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError):
        return None


def _is_there(name: str) -> bool:
    if _resolved(name) is not None:
        return True
    owner, _, field = name.rpartition(".")  # a dataclass's field without a default is no attribute
    return field in getattr(_resolved(owner), "__annotations__", ()) if owner else False


def setup(app: Sphinx) -> dict[str, Any]:
    """Tell Sphinx of all three."""
    app.connect("autodoc-process-docstring", keep_sentences, priority=400)  # napoleon's is 500
    app.connect("autodoc-process-signature", readable_defaults)
    app.connect("missing-reference", shown_as_code)
    return {"parallel_read_safe": True}
