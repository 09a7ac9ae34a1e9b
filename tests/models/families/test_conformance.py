"""Every family in the table is exact, and the table that users read is that of the families there are."""

from __future__ import annotations

import conformance
import pytest
from conformance import CLOSE, FAMILIES, Family, check_compaction, check_gates, check_maps, stacks_of

GROUPS = [
    pytest.param(family, stack, id="-".join(filter(None, (family.model_type, stack))))
    for family in FAMILIES
    for stack in stacks_of(family)
]


@pytest.fixture(autouse=True)
def quiet() -> None:
    """Tiny vocabularies make the library warn of special tokens."""
    from transformers import logging

    logging.set_verbosity_error()


@pytest.mark.parametrize(("family", "stack"), GROUPS)
def test_maps_and_what_is_closed_or_cut_out_are_exact(family: Family, stack: str | None) -> None:
    raw, sums = check_maps(family, stack)
    assert raw < 1e-5
    assert sums < CLOSE
    compaction = check_compaction(family) if stack in (None, "encoder") else None
    assert (check_gates(family, stack) if compaction is None else compaction) < CLOSE


@pytest.mark.slow
@pytest.mark.parametrize(("family", "stack"), GROUPS)
def test_everything_is_exact(family: Family, stack: str | None) -> None:
    found = conformance.check(family, stack)
    assert found.importance < 1e-6
    assert found.gates < CLOSE
    assert not found.saving


def test_the_table_that_users_read_is_of_the_families_there_are() -> None:
    """``make families`` writes it anew."""
    assert conformance.written_rows() == conformance.known_rows()
    assert f"{len(FAMILIES)} families, each proven" in conformance.TABLE.read_text(encoding="utf-8")
