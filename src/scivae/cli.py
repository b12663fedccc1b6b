"""The command ``scivae``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ._errors import near_matches, shown
from .commands.options import BY_POSITION, NOT_IN_FILE, SEVERAL, UsageError, make_parsers

EXIT_REFUSED, EXIT_STOPPED, EXIT_INTERRUPTED = 2, 1, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv
        Arguments; ``None`` for those of the process.

    Returns
    -------
    Exit status: 0 on success; 2 if the input is invalid, and nothing was done; 1 after an error during the
    run; 130 after Ctrl-C.
    """
    with _signs_replaced(sys.stdout), _signs_replaced(sys.stderr):
        return _run(sys.argv[1:] if argv is None else list(argv))


def _run(argv: list[str]) -> int:
    """Run a command; errors are printed in one line."""
    from .commands.log import Log, StoppedError

    log = Log()
    try:
        args = _arguments(argv)
        log.quiet, log.options = args.quiet, vars(args).keys() - NOT_IN_FILE - {*BY_POSITION}
        with log.listening():
            args.do(args, log)
    except KeyboardInterrupt:
        return _fail(log, "interrupted.", EXIT_INTERRUPTED)
    except StoppedError as error:
        return _fail(log, error, EXIT_STOPPED)
    except (ValueError, KeyError, TypeError, ImportError) as error:
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        return _fail(log, message, EXIT_REFUSED)
    except (OSError, RuntimeError, ArithmeticError, MemoryError) as error:
        return _fail(log, error or type(error).__name__, EXIT_STOPPED)
    return 0


def _fail(log: Any, message: Any, status: int) -> int:
    """Print an error in one line, and write it to the log."""
    text = f"scivae: error: {log.worded(message)}"
    print(text, file=sys.stderr)
    log.keep(text)
    return status


def _arguments(argv: list[str]) -> argparse.Namespace:
    """Arguments from the command line, then from its configuration file, then the defaults."""
    from .commands.log import read_config

    parser, commands = make_parsers(_do_run, _do_step)
    args = parser.parse_args(argv)
    given = getattr(args, "config", None)
    if given is None:
        return args
    options = read_config(given)
    known = commands[args.command].options()
    spelled = [key.replace("_", "-") for key in known]
    words: list[str] = []
    for name, value in options.items():
        key = name.replace("-", "_")
        if key not in known:
            raise UsageError(
                f"{given} must hold options of scivae {args.command}, got {name!r}; available: "
                f"{shown(spelled, 30)}.{near_matches(name, spelled)}"
            )
        if value is not None and key not in BY_POSITION:
            several = key in SEVERAL.get(args.command, ())
            words += _as_words(key, value, is_flag=isinstance(known[key], bool), several=several)
    begin = argv.index(args.command) + 1
    try:
        args = parser.parse_args([*argv[:begin], *words, *argv[begin:]])
    except UsageError as error:
        raise UsageError(f"{given}: {error}") from None
    for name in BY_POSITION:  # relative to the current folder, as on the command line
        if name in options and getattr(args, name, None) is None:
            setattr(args, name, Path(str(options[name])))
    return args


def _as_words(key: str, value: Any, *, is_flag: bool, several: bool) -> list[str]:
    """An option of a configuration file, as the words of a command line."""
    option = f"--{key.replace('_', '-')}"
    if is_flag:
        if not isinstance(value, bool):
            raise UsageError(f"{key} must be true or false, got {value!r}.")
        return [option] if value else []
    if isinstance(value, dict) or (isinstance(value, list) and not several):
        raise UsageError(f"{key} must be one value, got {value!r}.")
    if isinstance(value, list):
        return [option, *(str(one) for one in value)]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return [option, str(value)] if several else [f"{option}={value}"]


def _text(value: Any) -> Any:
    """An argument decoded as UTF-8, whatever the encoding of the locale."""
    if isinstance(value, list):
        return [_text(one) for one in value]
    if not isinstance(value, str):
        return value
    try:
        return os.fsencode(value).decode("utf-8")
    except UnicodeError:
        return value


@contextmanager
def _signs_replaced(stream: Any) -> Iterator[None]:
    """Replace characters that the console cannot show by question marks, instead of an error."""
    errors = getattr(stream, "errors", None)
    if errors is None or not hasattr(stream, "reconfigure"):
        yield
        return
    stream.reconfigure(errors="replace")
    try:
        yield
    finally:
        stream.reconfigure(errors=errors)


# --- what each command does -------------------------------------------------------------------------


def _of(kind: Any, args: argparse.Namespace) -> Any:
    """The arguments of a command, as a :class:`Request` or :class:`Step`."""
    return kind(**{k: _text(v) for k, v in vars(args).items() if k in kind._fields})


def _do_run(args: argparse.Namespace, log: Any) -> None:
    from .commands import run
    from .commands.request import Request

    request = _of(Request, args)
    if args.command == "run" and request.data is None:
        raise UsageError(
            "scivae run needs FILE (an h5ad file or a zarr store), got none; name it, or use scivae "
            "demo."
        )
    run.run(
        request._replace(argument="--data" if args.command == "demo" else "FILE"), log, args.command
    )


def _do_step(args: argparse.Namespace, log: Any) -> None:
    from .commands import steps
    from .commands.request import Request

    kind = Request if args.command == "train" else steps.Step
    if kind is steps.Step and args.model is None:
        raise UsageError(
            f"scivae {args.command} needs MODEL, the folder of a model, got none; name it first."
        )
    getattr(steps, args.command)(_of(kind, args), log)


if __name__ == "__main__":
    sys.exit(main())
