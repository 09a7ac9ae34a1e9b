"""The exceptions that headscope raises on purpose; a command turns each into one sentence and exit code 2."""


class HeadscopeError(Exception):
    """Base class: something the user can put right. The message says what, where, and how."""


class InputError(HeadscopeError, ValueError):
    """A file, a row, an option or an argument is not what it should be."""


class HeadError(InputError):
    """A checkpoint has no classification head, or one for other labels; fine-tuning makes a new one."""

    def __init__(self, message: str, missing: bool) -> None:
        super().__init__(message)
        self.missing = missing
        """Whether there is no head at all."""


class MissingSplitError(InputError):
    """A data set does not have the split asked for."""


class UnsupportedModelError(HeadscopeError, TypeError):
    """headscope does not know where this model keeps its heads; the message lists the families it knows."""


class LibraryError(HeadscopeError, RuntimeError):
    """The installed transformers works differently inside than headscope knows; the message names its version."""


class TapError(HeadscopeError, RuntimeError):
    """A forward pass did not go through every attention layer exactly once, so nothing seen can be trusted."""
