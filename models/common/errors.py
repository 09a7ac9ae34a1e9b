"""The exceptions that headscope raises on purpose; a command turns each into one sentence and exit code 2."""

import re

_SENTENCE = 2000  # characters of a message


def one_line(text: str, most: int = 200) -> str:
    """Return text as one printable line of at most so many characters; what is too long loses its middle."""
    if len(text) > 4 * most:  # it may quote a whole file
        text = f"{text[: 2 * most]} ... {text[-2 * most :]}"
    flat = re.sub(r"\s*[\r\n]\s*", " ", text)
    line = "".join(
        one if one.isprintable() else " " if one.isspace() else "\N{REPLACEMENT CHARACTER}" for one in flat
    )
    end = most // 3
    return line if len(line) <= most else f"{line[: most - end - 5]} ... {line[-end:]}"


def is_unicode(text: str) -> bool:
    """Return whether `text` can be written as UTF-8.

    JSON's escapes may hold half a surrogate pair, and Python makes one of each byte of a file's name that is no UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class HeadscopeError(Exception):
    """Base class: something the user can put right. The message says what, where, and how, in one line."""

    def __str__(self) -> str:
        return one_line(super().__str__(), _SENTENCE)


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
