"""Waking a reader that blocks in another thread, and which event loop is running."""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["get_running_trio", "make_waker"]


def make_waker(sock: Any) -> Callable[[], object]:
    """What wakes a reader of that socket, from any thread: it will see the end of the connection.

    Closing would not do it, and waits for the locks that the reader holds.
    """
    import socket

    if isinstance(sock, socket.socket):
        # Not what ssl.SSLSocket makes of it, which takes the session away under the reader.
        return partial(socket.socket.shutdown, sock, socket.SHUT_RDWR)

    def wake() -> None:
        # What trio and asyncio show of their sockets; uvloop, and urllib3 for TLS within TLS, show
        # no more than the number.
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except (TypeError, AttributeError):
            with socket.socket(fileno=os.dup(sock.fileno())) as twin:
                twin.shutdown(socket.SHUT_RDWR)

    return wake


def get_running_trio() -> Any:
    """The module `trio`, within a run of its; else None."""
    # It may be in the midst of its import, by another thread.
    trio = sys.modules.get("trio")
    lowlevel = getattr(trio, "lowlevel", None)
    return trio if lowlevel is not None and lowlevel.in_trio_run() else None
