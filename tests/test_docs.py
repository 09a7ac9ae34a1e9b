"""README and docs/: links lead somewhere, commands take what is shown, and Python runs; ``make docs`` builds them."""

from __future__ import annotations

import importlib
import pkgutil
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.main

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
GUIDES = [path for path in PAGES if path.is_relative_to(ROOT / "docs") or path.name == "README.md"]
"""What is written for users."""
LANGUAGES = ("sh", "console", "text", "python", "toml", "json")
DIRECTIVES = ("{toctree}", "{include}", "{eval-rst}", "{command-pages}")
OTHERS = ("cd", "label-studio", "make", "pip", "pipx", "python", "python3", "uv")
"""Words that an example may begin with besides our commands."""
_FENCE = re.compile(r"^```(\S+)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILES = re.compile(r"(?<![\w./-])(?:examples|benchmarks|docs|locks|tests|patterns)/[\w./-]*\w")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def prose_of(path: Path) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", path.read_text(encoding="utf-8"))


def blocks_of(path: Path, *languages: str) -> list[str]:
    text = path.read_text(encoding="utf-8")
    return [block for language, block in _FENCE.findall(text) if language in languages]


def inline_of(path: Path) -> list[str]:
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose_of(path))]


def anchors_of(path: Path) -> set[str]:
    """Where a link into a page may lead, as code forges and MyST name headings."""
    titles = re.findall(r"^#+ (.+)$", prose_of(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links_of(path: Path) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", prose_of(path)))


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    for link in links_of(path):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.is_relative_to(ROOT), link
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


def test_there_are_links_to_follow() -> None:
    assert sum("://" not in link for path in PAGES for link in links_of(path)) > 60
    assert {"a-task-of-your-own"} == anchors_of(ROOT / "docs" / "guides" / "own-task.md")


@pytest.mark.parametrize("path", GUIDES, ids=name_of)
def test_every_block_says_what_it_is(path: Path) -> None:
    """So that no example is left out of the tests below."""
    text = path.read_text(encoding="utf-8")
    assert {language for language, _ in _FENCE.findall(text)} <= {*LANGUAGES, *DIRECTIVES}
    assert "```" not in prose_of(path)
    assert not re.search(r"\n\n {4}\S", prose_of(path)), "an indented block"


@cache
def mains() -> dict[str, Any]:
    """The function of each console script."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    places = {name: where.split(":") for name, where in scripts.items()}
    return {name: getattr(importlib.import_module(place[0]), place[1]) for name, place in places.items()}


@cache
def commands() -> dict[str, Any]:
    """What parses each console script, or each of its sub-commands, by its words."""
    found = {}
    for name, main in mains().items():
        parser: Any = typer.main.get_command(main.app)
        subs = getattr(parser, "commands", None)
        found |= {f"{name} {word}": one for word, one in subs.items()} if subs else {name: parser}
    return found


@cache
def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def shown(path: Path) -> Iterator[str]:
    """Yield each command line of a page's shell blocks and transcripts, and of a study's comments."""
    if path.suffix == ".toml":
        yield from re.findall(r"^# (run-study .+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        return
    for block in blocks_of(path, "sh"):
        yield from filter(None, block.replace("\\\n", " ").splitlines())
    for block in blocks_of(path, "console"):
        yield from re.findall(r"^\$ (.+)$", block, re.MULTILINE)


def words_of(line: str) -> list[str]:
    """A line as a shell splits it; of a launcher's, what it launches."""
    return shlex.split(re.sub(r"^.*\$\(command -v ([\w-]+)\)", r"\1", line), comments=True)


def command_in(words: list[str]) -> tuple[str, list[str]]:
    """The command that a line calls, and what it gives it."""
    number = 2 if " ".join(words[:2]) in commands() else 1
    return " ".join(words[:number]), words[number:]


STUDIES = sorted(ROOT.glob("examples/studies/*.toml"))
LINES = [
    *((name_of(path), line) for path in (*PAGES, *STUDIES) for line in shown(path)),
    *(
        (f"{name} --help", line)
        for name, parser in commands().items()
        for line in re.findall(r"^Example: (.+)$", parser.help.replace("\\[", "["), re.MULTILINE)
    ),
]


@pytest.mark.parametrize(("where", "line"), LINES)
def test_a_command_that_is_shown_can_be_given(where: str, line: str) -> None:
    words = words_of(line)
    if words[0] in OTHERS:
        assert words[0] != "make" or set(words[1:]) <= targets(), f"{where}: {line}"
        assert words[0] != "python" or (ROOT / words[1]).is_file(), f"{where}: {line}"
        return
    name, given = command_in(words)
    # Exactly as the command parses them: unknown options, missing ones and values of another type are errors.
    commands()[name].make_context(name, given)


def test_there_are_commands_to_parse() -> None:
    called = {command_in(words_of(line))[0] for where, line in LINES if "--help" not in where}
    assert commands().keys() <= called


@pytest.mark.parametrize("line", ["classify-heads --model m --exampels 3", "classify-heads --examples three"])
def test_a_wrong_command_would_be_seen(line: str) -> None:
    name, given = command_in(words_of(line))
    with pytest.raises(Exception, match=r"exampels|valid integer"):
        commands()[name].make_context(name, given)


@pytest.mark.parametrize("path", GUIDES, ids=name_of)
def test_options_that_are_named_exist(path: Path) -> None:
    """Those of a command that stands beside them; else of any."""
    options = {
        name: {word for one in parser.params for word in (*one.opts, *one.secondary_opts)} | {"--help"}
        for name, parser in commands().items()
    }
    for code in inline_of(path):
        name, _ = command_in(code.split())
        known = options.get(name) or set().union(*options.values())
        assert set(re.findall(r"(?<![\w-])--[a-z][\w-]*", code)) <= known, code
    for target in re.findall(r"\bmake ([a-z-]+)", " \n".join(inline_of(path))):
        assert target in targets()


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_files_that_are_named_are_in_the_repository(path: Path) -> None:
    for text in (*inline_of(path), *blocks_of(path, "sh", "console", "python")):
        for name in _FILES.findall(text):
            assert (ROOT / name).exists(), name


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_names_that_are_mentioned_are_there(path: Path) -> None:
    """Whether a page may use them is what tests/test_public_names.py asks."""
    for code in inline_of(path):
        found = re.match(r"(?:models|patterns|annotations|pruning)(?:\.[a-zA-Z]\w*)+", code)
        if found and not found[0].endswith((".csv", ".parquet", ".png")):
            pkgutil.resolve_name(found[0])


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, all_tiny: Any, tiny_tokenizer: Any) -> Path:
    """A folder in which the names that the pages use mean something: tiny random models, masks, the examples."""
    import torch
    from transformers import AutoModel, AutoModelForSequenceClassification

    from models import Subnetwork

    home = tmp_path_factory.mktemp("workspace")
    config = all_tiny["bert"].config.__class__(**all_tiny["bert"].config.to_diff_dict())
    for folder, labels in (
        ("bert-base-uncased", []),
        ("out/mrpc/seed_42", ["not_equivalent", "equivalent"]),
        ("out/qqp/seed_42", ["not_duplicate", "duplicate"]),
        ("out/stars", ["1", "2", "3", "4", "5"]),
    ):
        config.update({"num_hidden_layers": 6, "initializer_range": 0.3})
        config.id2label = dict(enumerate(labels))
        config.label2id = {name: i for i, name in enumerate(labels)}
        torch.manual_seed(7)
        auto = AutoModelForSequenceClassification if labels else AutoModel
        auto.from_config(config).save_pretrained(home / folder)
        tiny_tokenizer.save_pretrained(home / folder)
    rng = np.random.default_rng(0)
    for seed in (42, 86, 71):
        folder = home / "searches" / "mrpc" / f"seed_{seed}"
        folder.mkdir(parents=True)
        kept = Subnetwork(rng.random((6, 4)) < 0.6, np.array([True, False, True, True, True, False]))
        kept.save(folder / "subnetwork.safetensors")
    (home / "examples").symlink_to(ROOT / "examples")
    return home


LONG = ("docs/start.md", "docs/guides/classify.md", "docs/guides/ablate.md")
"""Pages whose Python does the whole job of a command."""


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[pytest.mark.slow] if name_of(path) in LONG else [], id=name_of(path))
        for path in PAGES
        if blocks_of(path, "python")
    ],
)
def test_python_that_is_shown_runs(path: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page's blocks one after another, as a reader would type them."""
    import matplotlib

    matplotlib.use("agg")
    monkeypatch.chdir(workspace)
    names: dict[str, Any] = {}
    for block in blocks_of(path, "python"):
        exec(compile(block, name_of(path), "exec"), names)


@pytest.mark.slow
def test_a_task_of_ones_own_goes_as_the_page_says(
    workspace: Path, run_command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file and its commands as they stand there, from fine-tuning to a search and the heads."""
    page = ROOT / "docs" / "guides" / "own-task.md"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bert-base-uncased").symlink_to(workspace / "bert-base-uncased")
    (toml,) = blocks_of(page, "toml")
    (tmp_path / "stars.toml").write_text(toml, encoding="utf-8")
    (tmp_path / "reviews").mkdir()
    for split in ("train", "test"):
        rows = [
            f'{{"review": "the film was {"good " * (i % 5)}", "rating": {i % 5 + 1}}}\n' for i in range(40)
        ]
        (tmp_path / "reviews" / f"{split}.jsonl").write_text("".join(rows))
    called = []
    for line in shown(page):
        name, given = command_in(words_of(line))
        code, _, err = run_command(mains()[name], *given)
        assert code == 0, f"{line}: {err}"
        called.append(name)
    assert called == ["finetune-glue", "prune-heads", "classify-heads"]


def test_there_is_python_to_run() -> None:
    assert sum(len(blocks_of(path, "python")) for path in PAGES) > 8


@pytest.mark.slow
def test_the_pages_are_built_with_every_command_and_public_name(tmp_path: Path) -> None:
    pytest.importorskip("sphinx")
    pytest.importorskip("furo")
    rule = re.search(r"^docs:.*\n\t\$\(BIN\)/python (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert rule
    arguments = [word.replace("build/", f"{tmp_path}/") for word in rule[1].split()]
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = tmp_path / "docs"
    shown = (pages / "commands.html").read_text(encoding="utf-8")
    for name, parser in commands().items():
        section = re.search(rf'<section id="{name.replace(" ", "-")}">(.*?)</section>', shown, re.DOTALL)
        assert section, name
        for one in parser.params:
            assert all(word in section[1] for word in one.opts if word.startswith("--"))
    public = (pages / "api.html").read_text(encoding="utf-8")
    for room in ("models", "patterns", "annotations", "pruning"):
        for name in importlib.import_module(room).__all__:
            if (room, name) not in (("pruning", "Subnetwork"), ("pruning", "stability")):
                assert f'id="{room}.{name}"' in public
    assert 'id="pruning.stability.fleiss_kappa"' in public
