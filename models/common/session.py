"""How the command that runs talks, and which of its options were taken from the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class Session:
    """What ``--quiet``, ``--verbose`` and the variables ``HEADSCOPE_...`` say, for this process."""

    quiet: bool = False
    """Nothing is said but errors, warnings and the result."""
    verbose: bool = False
    """What was loaded is said, from where, and the seconds of each part."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """By option (``--device``), the variable that it was taken from."""
    values: Mapping[str, str] = field(default_factory=dict)
    """Of these variables, for the record."""

    def set(self, other: Session) -> None:
        """Talk like another."""
        self.__dict__.update(other.__dict__)


SESSION = Session()
"""Of this process, which runs one command at a time."""
