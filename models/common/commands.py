"""What all commands share: how errors and interrupts end, and what the common options mean."""

from __future__ import annotations

import contextlib
import difflib
import errno
import functools
import inspect
import io
import logging
import os
import re
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, NoReturn, TextIO, get_type_hints

import typer
import typer.core

from .errors import HeadscopeError, InputError, is_unicode, one_line
from .files import disk_is_full, reason
from .memory import keep_freed_memory, memory_ran_out
from .session import SESSION, Session
from .threads import share_the_machine

JsonOption = Annotated[bool, typer.Option("--json", help="Print the summary alone, as JSON.")]
ClassifierOption = Annotated[
    str | None, typer.Option(help="Folder or Hub id of a classifier to use instead of the shipped one.")
]


def _show_version(asked: bool) -> None:
    if asked:
        from .provenance import headscope_version

        print(f"headscope {headscope_version()}")
        raise typer.Exit


_VersionOption = Annotated[
    bool,
    typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_show_version),
]
_OF_ALL: Mapping[str, Any] = {
    "quiet": Annotated[
        bool, typer.Option("--quiet", help="Say nothing but errors, warnings and the result.")
    ],
    "verbose": Annotated[
        bool,
        typer.Option(
            "--verbose", help="Say what is loaded, from where, and how many seconds each part takes."
        ),
    ],
    "version": _VersionOption,
}
"""The options that every command has."""

PREFIX = "HEADSCOPE_"
"""Of the variables that options are taken from where they are not given: ``HEADSCOPE_BATCH_SIZE=8``."""

_BY_HAND = (
    *("--overwrite", "--force", "--dry-run", "--push-to-hub"),
    *("--version", "--help", "--install-completion", "--show-completion"),
)
"""What is asked for each time, since it deletes, publishes, or keeps a command from its work."""

NO_VARIABLE: list[str] = []
"""The ``envvar`` of an option that a file says, and so no variable does: a study's."""

_OF_TESTS = ("AXE", "CHROMIUM", "FUZZ", "LABEL_STUDIO", "NO_SKIP")
"""Variables with our prefix that are no options: headscope's own tests read them."""

_EPILOG = (
    f"An option that is not given is taken from the environment, where it is named there, {PREFIX}BATCH_SIZE=8 for "
    "--batch-size 8; else it has its default."
)


def command(function: Callable[..., None], after: str = "nothing was written.") -> Callable[[], None]:
    """Turn a Typer function into a console script.

    It ends with 0 when done, with 2 and one sentence on stderr on bad input, a full disk or too little memory, and
    with 130 when interrupted. Terminated, it cleans up too and ends with 143. Where nobody reads what it prints any
    more (``| head -1``), it ends with 1 and without a word.

    Args:
        function: what the command does.
        after: what to say of the output when it was interrupted.
    """
    app = _app()
    app.command(cls=_Command, help=_flowing(function.__doc__), epilog=_EPILOG)(_guarded(function, after))
    return _script(app, function.__name__, function.__doc__)


def group(name: str, summary: str, functions: Mapping[str, Callable[..., None]]) -> Callable[[], None]:
    """Turn several Typer functions into one console script with a sub-command each, see :func:`command`.

    Args:
        name: of the script.
        summary: what its ``--help`` says.
        functions: by the name of the sub-command.
    """
    app = _app()
    app.callback(help=_flowing(summary))(_nothing)
    for word, function in functions.items():
        guarded = _guarded(function, "run the same command again.")
        app.command(word, cls=_Command, help=_flowing(function.__doc__), epilog=_EPILOG)(guarded)
    return _script(app, name, summary)


def _nothing(version: _VersionOption = False) -> None:
    """Leave everything to the sub-command."""


def _app() -> typer.Typer:
    return typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False)


def _guarded(function: Callable[..., None], after: str) -> Callable[..., None]:
    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> None:
        asked = {name: bool(kwargs.pop(name, False)) for name in _OF_ALL}
        share_the_machine()  # only where something is done: to look for a quota takes as long as all of --help
        try:
            with _talking(asked["quiet"], asked["verbose"]):
                function(*args, **kwargs)
        except HeadscopeError as error:
            _stop(str(error), 2)
        except KeyboardInterrupt:
            _stop(f"interrupted; {after}", 130)
        except Exception as error:  # each library has its own type for it
            if error is getattr(sys.stdout, "failed", None):
                raise  # nothing is wrong with the job or the disk: what it printed goes nowhere
            if isinstance(error, UnicodeEncodeError):  # the name of a file, in what was to be written
                around = error.object[max(0, error.start - 60) : error.end + 20]
                _stop(
                    f"{one_line(around)!r} cannot be written as {error.encoding}, as tables and pages have it; "
                    f"rename it; {after}",
                    2,
                )
            if memory_ran_out(error):
                _stop(
                    f"Memory ran out ({reason(error)}). Give a smaller --batch-size or --max-length; {after}",
                    2,
                )
            # A path that one may not look at, that is too long, or that a library opened: Path.is_dir raises too.
            if isinstance(error, OSError) and error.filename and not disk_is_full(error):
                _stop(f"{one_line(str(error.filename), 300)}: {reason(error)}; {after}", 2)
            if not disk_is_full(error):
                raise
            _stop(
                f"The disk is full: {reason(error)}. Free some space, then run the command again; {after}", 2
            )

    hints = get_type_hints(function, include_extras=True)
    own = [one.replace(annotation=hints[one.name]) for one in inspect.signature(function).parameters.values()]
    of_all = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=declared)
        for name, declared in _OF_ALL.items()
    ]
    parameters = [*own, *of_all]
    guarded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    guarded.__annotations__ = {one.name: one.annotation for one in parameters}
    return guarded


@contextlib.contextmanager
def _talking(quiet: bool, verbose: bool) -> Iterator[None]:
    """Have the command talk as it was asked to, and say at the end what it took."""
    given = dict(_variables.get())
    if quiet and verbose:
        fixed = [option for option in ("--quiet", "--verbose") if option not in given]
        if len(fixed) != 1:
            raise InputError("--quiet and --verbose: give one of them.")
        quiet, verbose = fixed == ["--quiet"], fixed == ["--verbose"]  # what was given goes before a variable
    before = Session(**SESSION.__dict__)
    values = {name: os.environ[name] for name in given.values()}
    SESSION.set(Session(quiet, verbose, given, values))
    begun = time.perf_counter()
    try:
        if verbose:
            from .provenance import headscope_version

            say(f"headscope {headscope_version()}, Python {sys.version.split()[0]}")
            for option, name in given.items():
                say(f"{option} is taken from {name}={values[name]}")
        yield
        if verbose:
            say(f"{time.perf_counter() - begun:9.2f} s  in all")
    finally:
        SESSION.set(before)


def _script(app: typer.Typer, name: str, doc: str | None) -> Callable[[], None]:
    def main() -> None:
        try:
            Path.cwd()
        except FileNotFoundError:  # some libraries cannot even be loaded there
            say_error("The current folder was deleted; change into another, and run the command again.")
            raise SystemExit(2) from None
        for stream in (
            sys.stdout,
            sys.stderr,
        ):  # whatever names and texts hold, and whatever the terminal knows
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        quiet_libraries()
        keep_freed_memory()
        # A scheduler's SIGTERM must clean up as Ctrl-C does; by default Python would just be gone.
        signal.signal(signal.SIGTERM, _terminate)
        hangup = getattr(signal, "SIGHUP", None)  # a terminal that was closed; under nohup it is ignored
        if hangup is not None and signal.getsignal(hangup) != signal.SIG_IGN:
            signal.signal(hangup, _terminate)
        stdout = _Watched(sys.stdout)
        sys.stdout = stdout
        code: Any = 0
        try:
            app()
        except SystemExit as end:
            code = end.code
        except OSError as error:
            if error is not stdout.failed and error.errno not in _UNPRINTED:
                raise
            code = 2
        finally:
            sys.stdout = stdout.stream
        raise SystemExit(_ended(code, stdout))

    main.__name__ = name
    main.__doc__ = doc
    main.app = app  # type: ignore[attr-defined]  # what the command takes, for tests of all commands
    return main


_UNPRINTED = (errno.EPIPE, errno.ENOSPC, errno.EIO)


class _Watched:
    """A stdout that remembers that it could not be written, so that nothing else is said to have failed."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        """None where stdout was closed before the command began."""
        self.failed: OSError | None = None

    def write(self, text: Any) -> Any:
        return self._tried("write", text)

    def flush(self) -> None:
        self._tried("flush")

    def _tried(self, what: str, *words: Any) -> Any:
        try:
            return getattr(self.stream, what)(*words) if self.stream is not None else None
        except OSError as error:
            self.failed = error
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def _ended(code: Any, stdout: _Watched) -> Any:
    """Print what is still held back, and return what a command ends with: its code, unless that is lost.

    Left to Python's own end, it would be a traceback and the code 120.
    """
    error = _let_go(stdout.stream) or stdout.failed
    if error is not None and error.errno != errno.EPIPE:
        say_error(f"What was to be printed could not be written: {reason(error)}.")
    _let_go(sys.stderr)
    if error is None:
        return code
    return code or (1 if error.errno == errno.EPIPE else 2)


def _let_go(stream: TextIO | None) -> OSError | None:
    """Write what a stream holds back; where that fails, return why, and write no more to it."""
    if stream is None or stream.closed:
        return None
    try:
        stream.flush()
    except OSError as error:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return error
    return None


def _flowing(text: str | None) -> str:
    """Return a text whose paragraphs are as wide as the terminal, and whose brackets are no markup."""
    paragraphs = inspect.cleandoc(text or "").split("\n\n")
    return _unmarked("\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs))


def _unmarked(text: str) -> str:
    return text.replace("[", "\\[")


_PANELS = {
    "Model and data": "model revision task data split examples holdout subnetwork annotations",
    "Running": "batch-size max-length seed seeds device device-map dtype precision jobs backend address gpus",
    "Output": "output overwrite save-maps keep report-to json figure-format figure-width push-to-hub",
    "Every command": "quiet verbose version install-completion show-completion help",
}
"""Under which title an option is listed in --help, whichever command has it; the others are the command's own."""

_options: ContextVar[Mapping[str, str] | None] = ContextVar("options", default=None)
"""The options of the command that runs, by the names of Python's arguments."""
_variables: ContextVar[Mapping[str, str]] = ContextVar("variables", default={})  # noqa: B039  # never changed
"""By option of the command that runs, the variable that it was taken from."""


class _Command(typer.core.TyperCommand):
    """A command whose options are listed in groups; those with several values take them one after another.

    ``--seeds 1 2 3``
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        panels = {f"--{word}": title for title, words in _PANELS.items() for word in words.split()}
        for parameter in self.params:
            parameter.help = _unmarked(parameter.help or "")  # type: ignore[attr-defined]
            if parameter.opts[0] in panels:
                parameter.rich_help_panel = panels[parameter.opts[0]]  # type: ignore[attr-defined]
            if parameter.param_type_name == "option":
                _give_variable(parameter)

    def invoke(self, ctx: Any) -> Any:
        """Run it, so that errors name its options, and the variables that they were taken from."""
        named = {p.name: p.opts[0] for p in self.params if p.name and p.opts[0].startswith("--")}
        given = {
            p.opts[0]: next(name for name in _names(p) if os.environ.get(name))
            for p in self.params
            if getattr(ctx.get_parameter_source(p.name), "name", "") == "ENVIRONMENT"
        }
        tokens = _options.set(named), _variables.set(given)
        try:
            _warn_of_others({name for p in self.params for name in _names(p)})
            return super().invoke(ctx)
        finally:
            _options.reset(tokens[0])
            _variables.reset(tokens[1])

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options; those that every command has come last, with those that Typer adds."""
        params = super().get_params(ctx)
        for parameter in params:
            if parameter.opts[0] in ("--help", "--install-completion", "--show-completion"):
                parameter.rich_help_panel = "Every command"  # type: ignore[attr-defined]
        return params

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words, of which all that goes on into tables and pages must be text."""
        for name in {name for parameter in self.params for name in _names(parameter)}:
            if not is_unicode(os.environ.get(name, "")):
                _stop(f"{name}={os.environ[name]!r} is no UTF-8 text; give one that is.", 2)
        for before, arg in zip(["", *args], args, strict=False):
            if not is_unicode(arg):
                option = f"{before} " if before.startswith("--") and "=" not in before else ""
                _stop(f"{option}{arg!r} is no UTF-8 text; give one that is, or rename the file.", 2)
        several = {
            name
            for parameter in self.params
            if parameter.param_type_name == "option" and getattr(parameter, "multiple", False)
            for name in parameter.opts
        }
        if any(parameter.param_type_name == "argument" for parameter in self.params):
            several = set()  # there, a value might be meant for another
        spread: list[str] = []
        open_option, values = "", 0
        for arg in args:
            if arg.startswith("--") or (arg.startswith("-") and not arg[1:2].isdigit()):
                open_option, values = (arg if arg in several else ""), 0
            elif open_option:
                values += 1
                if values > 1:
                    spread.append(open_option)
            spread.append(arg)
        return super().parse_args(ctx, spread)


def _give_variable(parameter: Any) -> None:
    """Let an option be taken from the environment; where it is, ``--help`` and errors show the variable."""
    if parameter.opts[0] in _BY_HAND or parameter.envvar == NO_VARIABLE:
        return
    ours = PREFIX + parameter.opts[0].lstrip("-").replace("-", "_").upper()
    parameter.envvar = [parameter.envvar, ours] if isinstance(parameter.envvar, str) else ours
    parameter.show_envvar = not isinstance(parameter.envvar, str) or bool(os.environ.get(ours))


def _names(parameter: Any) -> list[str]:
    """Return the variables that an option is taken from, the first that is set."""
    found = parameter.envvar
    return [found] if isinstance(found, str) else list(found or ())


def _warn_of_others(ours: set[str]) -> None:
    """Say of variables with headscope's prefix that no command has an option for them: they may be misspelt."""
    tests = {PREFIX + name for name in _OF_TESTS}
    others = {name for name, value in os.environ.items() if name.startswith(PREFIX) and value} - ours - tests
    if not others:
        return
    known = _of_all_commands() | ours
    by_hand = {PREFIX + option[2:].replace("-", "_").upper(): option for option in _BY_HAND}
    for name in sorted(others - known):
        why = "it is the variable of no option"
        if name in by_hand:
            why = f"{by_hand[name]} is given by hand alone"
        elif near := difflib.get_close_matches(name, known, 1):
            why += f"; perhaps {near[0]} was meant"
        say(f"warning: {name} is ignored, since {why}.")


def _of_all_commands() -> set[str]:
    """Return the variables of the options of every command that is installed."""
    from importlib.metadata import entry_points

    found: set[str] = set()
    for script in entry_points(group="console_scripts"):
        if script.dist is None or script.dist.name != "headscope":
            continue
        parser: Any = typer.main.get_command(script.load().app)
        for one in getattr(parser, "commands", {"": parser}).values():
            found |= {name for parameter in one.params for name in _names(parameter)}
    return {name for name in found if name.startswith(PREFIX)}


def resumable(function: Callable[..., None]) -> Callable[[], None]:
    """Turn a Typer function whose job goes on where it stopped into a console script, see :func:`command`."""
    return command(function, after="what is done is kept, and the same command goes on from there.")


_LIBRARIES = (
    r"(torch|transformers|datasets|huggingface_hub|accelerate|sklearn|joblib|ray|dask|distributed)(\.|$)"
)


def quiet_libraries() -> None:
    """Silence the libraries' own progress bars and advice, so that what a command prints is its own."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for library in ("TRANSFORMERS", "HF_HUB", "DATASETS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    os.environ.setdefault("TQDM_MININTERVAL", "0.5")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # a line for each layer of 8 bits
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", module=_LIBRARIES)


_WARNING = "warning: "
"""How a warning begins, which a reader of the result has to know and ``--quiet`` does not take away."""


def say(message: str) -> None:
    """Print a note to stderr; with ``--quiet`` only a warning, which begins with ``warning:``."""
    if not SESSION.quiet or message.startswith(_WARNING):
        say_error(message)


def say_error(message: str) -> None:
    """Print to stderr, so that stdout stays what was asked for; where nobody can read it, nothing is printed."""
    if sys.stderr is not None:  # closed: print() would take stdout
        with contextlib.suppress(OSError):
            print(printable(message), file=sys.stderr)


def printable(text: str) -> str:
    """Return a text as one line that a terminal takes for nothing but text, and whole to a length of 2000.

    Names, ids and messages come from files and servers, which may put line ends, escapes and marks that turn the
    direction of writing into them.
    """
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return line if len(line) <= 2000 else f"{line[:1500]} ... {line[-400:]}"


def _terminate(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def _as_options(message: str) -> str:
    """Return an error's message with options, ``--batch-size 0``, for arguments of Python, ``batch_size=0``."""
    named = _options.get() or {}

    def option(match: re.Match[str]) -> str:
        return f"{named[match[1]]} " if match[1] in named else match[0]

    return re.sub(r"(?<![\w.-])([a-z][a-z_]*)=(?=[^\s=])", option, message)


def _taken_from(message: str, variables: Mapping[str, str]) -> str:
    """Return a sentence on each option in an error's message that was not given, but taken from a variable."""
    return "".join(
        f" {option} is taken from {name}={os.environ.get(name, '')}."
        for option, name in variables.items()
        if re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", message)
    )


def _stop(message: str, code: int) -> NoReturn:
    message = _as_options(message)
    say_error(message + _taken_from(message, _variables.get()))
    raise typer.Exit(code)
