"""How Sphinx builds these pages; ``make docs`` calls it."""

from __future__ import annotations

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "headscope"
version = release = installed_version("headscope")
author = "the authors of headscope"
copyright = author

extensions = [
    *("myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"),
    *("command_pages", "docstrings", "repository_links"),  # of the folder _extensions
]
root_doc = "index"
exclude_patterns = ["_extensions", "replication/report.md"]

# Anchors of headings are those of code forges, so that a link works there too.
myst_heading_anchors = 4

html_theme = "furo"
html_title = f"headscope {version}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_copy_source = False
html_show_copyright = False

# The public names are found by each room's __all__; a class is shown with what it has of its own.
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
add_module_names = False
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"
