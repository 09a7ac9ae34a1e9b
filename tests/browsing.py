"""Pages in a real browser: headless Chromium, and axe-core in it.

The browser is the one at HEADSCOPE_CHROMIUM, or ``chromium`` on the path; axe-core is looked for in the folder
HEADSCOPE_AXE, or in ./node_modules.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ARGUMENTS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = (
        os.environ.get("HEADSCOPE_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    )
    if not path:
        pytest.skip("no Chromium: install the distribution's, or set HEADSCOPE_CHROMIUM")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.skip("no Chromium: could not import playwright")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open a file; whatever it says on the console, and whatever it asks the network for, is a failure."""
    said: list[str] = []
    contexts = []

    def open_(
        path: Path, place: str = "", width: int = 1280, height: int = 900, ready: str = "body", **options: Any
    ) -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on(
            "request", lambda one: one.url.startswith(("file:", "data:", "blob:")) or said.append(one.url)
        )
        page.goto(f"file://{path}{place}")
        page.wait_for_selector(ready)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not said


@pytest.fixture
def serious_faults() -> Callable[[Any], list[tuple[str, str, str]]]:
    """Return what axe-core finds serious in a page (opened with ``bypass_csp``), all that folds being open."""
    folders = filter(None, [os.environ.get("HEADSCOPE_AXE"), "node_modules"])
    places = ("axe-core/axe.min.js", "node_modules/axe-core/axe.min.js", "axe.min.js")
    scripts = [Path(folder) / place for folder in folders for place in places]
    script = next(filter(Path.is_file, scripts), None)
    if script is None:
        pytest.skip("no axe-core: npm install axe-core, or set HEADSCOPE_AXE")

    def find(page: Any) -> list[tuple[str, str, str]]:
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        page.add_script_tag(path=str(script))
        return [
            (one["id"], one["nodes"][0]["html"][:200], one["nodes"][0]["failureSummary"])
            for one in page.evaluate("axe.run()")["violations"]
            if one["impact"] in ("serious", "critical")
        ]

    return find
