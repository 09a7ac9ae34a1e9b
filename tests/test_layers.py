"""What may import what, read from every import in the code, those within functions and for types included."""

from __future__ import annotations

import ast
from collections import defaultdict
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("models", "patterns", "annotations", "pruning")
"""From left to right: a room imports those to its left; pruning knows no annotations."""

WINGS = {
    "models.common": set(),
    "models.families": {"models.common"},
    "models.tasks": {"models.common", "door"},
    "models.finetuning": {"models.common", "models.tasks", "door"},
    "patterns.maps": {"door"},
    "patterns.classifier": {"patterns.maps", "door"},
    "patterns.measures": {"patterns.maps", "door"},
    "patterns.report": {"patterns.maps", "patterns.measures", "door"},
    "patterns.comparison": {"patterns.maps", "patterns.classifier", "patterns.measures", "door"},
    "patterns.cross": {"patterns.report", "patterns.maps", "door"},
    "annotations.sampling": {"door"},
    "annotations.training": {"door"},
    "annotations.agreement": {"door"},
    "annotations.label_studio": {"door"},
    "pruning.search": {"door"},
    "pruning.comparison": {"pruning.search", "door"},
    "pruning.ablation": {"pruning.search", "door"},
    "pruning.study": {"pruning.ablation", "pruning.search", "door"},
    "pruning.study.report": {
        *("pruning.study", "pruning.comparison", "pruning.ablation", "pruning.search", "door"),
    },
}
"""Each wing, and what of its own room it may import."""

FOUNDATIONS = (
    "models.common",
    "models.families",
    "models.tasks",
    "patterns.maps",
    "patterns.classifier",
    "patterns.measures",
)
"""What a door stands on and may import; the other wings stand on the door."""

ON_TOP = ("cli", "job", "functions")
"""Modules, at a door or in a wing, that put everything together: their names say so."""


@cache
def modules() -> dict[str, Path]:
    """Every module by its dotted name."""
    found = {}
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            if path.name not in ("__init__.py", "_siblings.py"):
                found[".".join(path.relative_to(ROOT).with_suffix("").parts)] = path
    return found


@cache
def imports() -> dict[str, set[str]]:
    """By module, the modules of ours that it imports; what comes from a room itself is left to the public names."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom):
                assert not isinstance(node, ast.Import) or not {
                    one.name.split(".")[0] for one in node.names
                } & set(ROOMS)
                continue
            place = name.split(".")[: -node.level] if node.level else []
            source = ".".join([*place, *([node.module] if node.module else [])])
            for one in node.names:
                full = f"{source}.{one.name}"
                if full in modules() or source in modules():
                    found[name].add(full if full in modules() else source)
    return found


def wing_of(name: str) -> str:
    """The wing of a module, or ``door``."""
    place = name.rpartition(".")[0]
    return place if place in WINGS else "door"


def circle(edges: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_there_is_something_to_read() -> None:
    assert len(modules()) > 100
    assert sum(map(len, imports().values())) > 300
    assert {wing_of(name) for name in modules()} == {*WINGS, "door"}


def test_a_room_imports_rooms_to_its_left() -> None:
    for name, targets in imports().items():
        room = name.split(".")[0]
        left = set(ROOMS[: ROOMS.index(room) + 1]) - ({"annotations"} if room == "pruning" else set())
        assert {target.split(".")[0] for target in targets} <= left, name


def test_no_module_imports_one_that_imports_it() -> None:
    assert circle(imports()) == []


def test_no_wing_imports_one_that_imports_it() -> None:
    """A wing counts as one, without what puts everything together in it."""
    edges: dict[str, set[str]] = defaultdict(set)
    for name, targets in imports().items():
        for target in targets:
            here, there = (
                one if wing_of(one) == "door" or one.endswith(ON_TOP) else wing_of(one)
                for one in (name, target)
            )
            if here != there:
                edges[here].add(there)
    assert circle(edges) == []


@pytest.mark.parametrize("wing", WINGS)
def test_a_wing_imports_of_its_room_what_the_plan_shows(wing: str) -> None:
    room = wing.split(".")[0]
    for name in modules():
        if wing_of(name) == wing and not name.endswith(".cli"):
            of_room = {wing_of(target) for target in imports()[name] if target.split(".")[0] == room}
            assert of_room - {wing} <= WINGS[wing], name


def test_a_door_stands_on_its_foundations_alone() -> None:
    for name in modules():
        if wing_of(name) == "door" and not name.endswith(ON_TOP):
            of_room = {
                wing_of(target) for target in imports()[name] if target.split(".")[0] == name.split(".")[0]
            }
            assert of_room <= {"door", *FOUNDATIONS}, name


@pytest.mark.parametrize("room", ROOMS)
def test_a_door_is_seen_at_a_glance(room: str) -> None:
    assert len([name for name in modules() if name.startswith(room) and wing_of(name) == "door"]) <= 12


def test_relative_imports_stay_in_a_room_and_absolute_ones_leave_it() -> None:
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                assert node.module.split(".")[0] != name.split(".")[0], f"{name} imports {node.module}"
