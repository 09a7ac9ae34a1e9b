"""Links from a page to a text of the repository that is no page, such as the card of example data.

They are relative, as a code forge wants them; on the built pages, where MyST looks for a page, they fetch the file.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx


def fetched(app: Sphinx, docname: str, source: list[str]) -> None:
    """Mark links to texts outside of the pages' folder as links to files."""
    here = Path(app.srcdir, docname).parent

    def mark(found: re.Match[str]) -> str:
        inside = (here / found[1]).resolve().is_relative_to(app.srcdir)
        return found[0] if inside else f"](path:{found[1]})"

    source[0] = re.sub(r"\]\((\.\./[^)#\s]+\.md)\)", mark, source[0])


def setup(app: Sphinx) -> dict[str, Any]:
    """Tell Sphinx of it."""
    app.connect("source-read", fetched)
    return {"parallel_read_safe": True}
