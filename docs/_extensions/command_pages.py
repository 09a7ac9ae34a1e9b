"""A directive that shows every command with its options, read from the commands themselves.

``{command-pages}`` takes no argument: the commands are the console scripts of the installed headscope, and a
command's options are those that its parser has, under the titles of its ``--help``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import distribution
from typing import Any

import typer.main
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


def commands() -> Iterator[tuple[str, Any]]:
    """Yield each command, or sub-command, by its name: what parses its options."""
    scripts = distribution("headscope").entry_points.select(group="console_scripts")
    for script in sorted(scripts, key=lambda one: one.name):
        parser: Any = typer.main.get_command(script.load().app)
        if hasattr(parser, "commands"):
            yield from ((f"{script.name} {word}", one) for word, one in parser.commands.items())
        else:
            yield script.name, parser


class CommandPages(SphinxDirective):
    """A section for each command: what it does, an example, its arguments and options."""

    def run(self) -> list[nodes.Node]:
        """Return the sections."""
        return [_section(name, parser, self.state.document) for name, parser in commands()]


def _section(name: str, parser: Any, document: nodes.document) -> nodes.section:
    section = nodes.section(names=[nodes.fully_normalize_name(name)])
    section += nodes.title(name, name)
    document.note_implicit_target(section, section)
    for paragraph in _plain(parser.help or "").split("\n\n"):
        if paragraph.startswith("Example: "):
            example = paragraph.removeprefix("Example: ")
            section += nodes.literal_block(example, example, language="sh")
        else:
            section += _paragraph(paragraph)
    context = parser.make_context(name, [], resilient_parsing=True)
    by_title: dict[str, list[nodes.definition_list_item]] = {}
    for parameter in parser.get_params(context):
        if record := parameter.get_help_record(context):  # nothing of a hidden one
            ours = "Arguments" if parameter.param_type_name == "argument" else "Options"
            title = getattr(parameter, "rich_help_panel", None) or ours
            by_title.setdefault(title, []).append(_item(*map(_plain, record)))
    for title, items in by_title.items():
        section += nodes.rubric(title, title)
        section += nodes.definition_list("", *items, classes=["options"])
    return section


def _item(words: str, told: str) -> nodes.definition_list_item:
    term = nodes.term("", "", nodes.literal("", words))
    return nodes.definition_list_item("", term, nodes.definition("", _paragraph(told)))


def _paragraph(text: str) -> nodes.paragraph:
    """Return a sentence whose options are code, with both of their dashes."""
    words = re.split(r"(--[a-z][\w-]*)", text)
    return nodes.paragraph(
        "", "", *(nodes.literal("", one) if i % 2 else nodes.Text(one) for i, one in enumerate(words))
    )


def _plain(text: str) -> str:
    """Take off what keeps the terminal from reading brackets as markup."""
    return text.replace("\\[", "[")


def setup(app: Sphinx) -> dict[str, Any]:
    """Tell Sphinx of the directive."""
    app.add_directive("command-pages", CommandPages)
    return {"parallel_read_safe": True}
