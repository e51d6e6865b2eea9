"""The command `sse-fast`: one file per subcommand.

Exit codes: 0 success, 1 failure (standard error says why, with the body of a refused response), 2
wrong command line, 130 interrupted, 141 the output pipe was closed; 143 and 129 for SIGTERM and
SIGHUP, by which the process ends, after `convert` and `record` have put their files in order.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from sse_fast import ACCELERATED, ResponseError, SSEError, __version__
from sse_fast._cli._common import say
from sse_fast._cli._signals import Terminated
from sse_fast._cli._terminal import visible

_COMMANDS = {
    "demo": "read a stream from a local server with every HTTP library that is installed",
    "cat": "print events as they arrive",
    "record": "write a stream to a file as it arrives",
    "replay": "serve a capture as an event stream, at the speed it was recorded",
    "convert": "turn captures into Parquet, Arrow, JSON lines or CSV",
    "doctor": "list the libraries that install() supports, and the speed-up for each",
    "bench": "compare the speed of parsers on this machine",
}
"""Name -> help, in the order in which they are listed."""


class _Parser(argparse.ArgumentParser):
    """A parser whose messages show the control characters of arguments; commands inherit it."""

    def error(self, message: str) -> NoReturn:
        super().error(visible(message))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        argv: the arguments after the command's name; None: those of the process.
    """
    arguments = _parse(sys.argv[1:] if argv is None else argv)
    try:
        if sys.stdout is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), "standard output")
        status: int = arguments.run(arguments)
        # The interpreter would flush at its exit, where a closed pipe is not caught any more.
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return 130
    except Terminated as signal:
        signal.end()
    except BrokenPipeError:
        # The interpreter flushes again at its exit, which must not fail on the closed pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        name = "" if error.filename is None else f"{error.filename}: "
        say(f"{name}{error.strerror or error}")
        return 1
    except ResponseError as error:
        # The body of a refused response usually explains the refusal.
        body = error.response.body.decode("utf-8", "replace").replace("\r\n", "\n").strip()
        say(f"{error}{body and chr(10)}{body}")
        return 1
    except (SSEError, ImportError) as error:
        say(f"{error}")
        return 1


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    core = "Cython" if ACCELERATED else "plain Python"
    parser = _Parser(
        prog="sse-fast", description="Event streams (Server-Sent Events) on the command line."
    )
    parser.add_argument("--version", action="version", version=f"sse-fast {__version__} ({core})")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, what in _COMMANDS.items():
        command = commands.add_parser(name, help=what)
        # Only a command that is named is loaded: all of them together take longer than `cat`.
        if name in argv:
            _load(name).add_options(command)
    return parser.parse_args(argv)


def _load(name: str) -> Any:
    """Import the module of a command. The imports are written out for freezing tools."""
    if name == "demo":
        from sse_fast._cli import demo

        return demo
    if name == "cat":
        from sse_fast._cli import cat

        return cat
    if name == "record":
        from sse_fast._cli import record

        return record
    if name == "replay":
        from sse_fast._cli import replay

        return replay
    if name == "convert":
        from sse_fast._cli import convert

        return convert
    if name == "doctor":
        from sse_fast._cli import doctor

        return doctor
    assert name == "bench", f"no branch for the command {name!r}"
    from sse_fast._cli import bench

    return bench
