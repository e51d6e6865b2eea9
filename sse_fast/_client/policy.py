"""When to connect again, and after how long: the settings of the client, and its states."""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from sse_fast._request import parse_origins

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ReadyState", "ReconnectPolicy"]


class ReadyState(enum.IntEnum):
    """The state of the connection (HTML standard, 9.2.2)."""

    CONNECTING = 0
    """There is no connection yet, or the client is about to reconnect."""
    OPEN = 1
    """There is a connection, and events may arrive."""
    CLOSED = 2
    """There is no connection, and the client will make none."""


@dataclass(frozen=True, kw_only=True)
class ReconnectPolicy:
    """When to connect again, and after how long. All durations are in seconds.

    After a good end of a stream, the client waits for the server's `retry`, or else for a random
    share of `end_delay`. An end is good if the stream had an event, and either the end of its body
    is marked (chunked, Content-Length, HTTP/2) or it was open for `reset_after` seconds. Without
    either, an end looks like a crash of the server: only its `retry` tells it from one.

    After a failure, the client waits for the longest of `min_delay`, the server's `retry` and its
    Retry-After, plus a random share of a backoff. The backoff starts at `initial_delay` and grows
    by the factor `multiplier` with each further failure, up to `max_delay`. It starts again after a
    marked end of a stream with events, or when a connection was open for `reset_after` seconds.

    Attributes:
        initial_attempts: attempts to get the first response before its error is raised; None: no
            limit.
        max_attempts: attempts in a row after the first response; what starts the backoff again
            starts the count again, too. None: no limit; 0: never reconnect.
        max_elapsed: how long after the first failure in a row further attempts may begin; None: no
            limit.
        retry_statuses: the statuses after which the client tries again instead of raising.
        end_delay: the wait after a good end, unless the server has sent a `retry`. `whatwg()` has
            one wait for all cases, `initial_delay`.
        initial_delay: the first backoff after a failure. The first attempt has no delay.
        multiplier: the factor by which the backoff grows after each further failure.
        max_delay: the longest backoff.
        jitter: the random share of the backoff and of `end_delay`: 1.0 all of it, 0.0 none.
        min_delay: the shortest wait, which also holds for a delay that a callback asks for.
        max_retry: the longest `retry` of a server that is respected, in seconds, although `retry`
            itself is in milliseconds.
        max_retry_after: the longest Retry-After that is respected.
        reset_after: how long a connection has to be open for the backoff to start again.
        reconnect_on_end: whether to reconnect after a clean end; None: for GET only.
        max_redirects: the number of redirects that one attempt follows.
        max_id_size: the largest Last-Event-ID to be sent, in bytes; None: no limit.
        trusted_origins: origins, such as "https://api.example.com:8443", that are treated as that
            of the URL: a redirect there gets the header fields, the credentials and the client, and
            by 307 or 308 the body.
    """

    initial_attempts: int | None = 3
    max_attempts: int | None = None
    max_elapsed: float | None = None
    retry_statuses: Collection[int] = field(
        default=frozenset({408, 425, 429, *range(500, 600)} - {501, 505}), repr=False
    )
    end_delay: float = 1.0
    initial_delay: float = 1.0
    multiplier: float = 2.0
    max_delay: float = 30.0
    jitter: float = 1.0
    min_delay: float = 0.1
    max_retry: float = 3600.0
    max_retry_after: float = 3600.0
    reset_after: float = 30.0
    reconnect_on_end: bool | None = None
    max_redirects: int = 20
    max_id_size: int | None = 8192
    trusted_origins: Collection[str] = ()
    # Set by `whatwg()` for rules that have no field: an end within an event is a clean end, the
    # server's `retry` replaces the backoff, and only the first member of a gzip body is read.
    _whatwg: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if each.type in _NUMBERS and not _is_number(value, each.type):
                raise ValueError(f"Expected {each.name} to be {_NUMBERS[each.type]}, got {value!r}")
        if not _is_status_collection(self.retry_statuses):
            raise ValueError(
                f"Expected retry_statuses to be a collection of int, got {self.retry_statuses!r}"
            )
        if self.reconnect_on_end not in (None, True, False):
            raise ValueError(
                f"Expected reconnect_on_end to be a bool or None, got {self.reconnect_on_end!r}"
            )
        if isinstance(self.trusted_origins, str) or not isinstance(
            self.trusted_origins, Collection
        ):
            raise ValueError("Expected trusted_origins to be a collection of origins")
        # Refuse what is not an origin now.
        parse_origins(self.trusted_origins)
        if self.jitter > 1:
            raise ValueError(f"Expected jitter to be a share from 0 to 1, got {self.jitter!r}")

    @classmethod
    def whatwg(cls, **changes: Any) -> Self:
        """Return the policy of browsers (HTML standard, 9.2.3).

        After a network error or the end of a stream, the client reconnects without any limit, after
        the server's `retry` or 3 seconds. Statuses other than 200 and 204 are errors. As with every
        policy, a request other than GET or HEAD is only sent again if that is safe.

        Args:
            **changes: fields of the policy with other values.
        """
        standard: dict[str, Any] = {
            "initial_attempts": None,
            "retry_statuses": frozenset(),
            "initial_delay": 3.0,
            "multiplier": 1.0,
            "jitter": 0.0,
            "reconnect_on_end": True,
            "max_id_size": None,
            "_whatwg": True,
        }
        return cls(**{**standard, **changes})

    @classmethod
    def never(cls, **changes: Any) -> Self:
        """Return the policy that makes one attempt and raises every error.

        Args:
            **changes: fields of the policy with other values.
        """
        return cls(
            **{"initial_attempts": 1, "max_attempts": 0, "reconnect_on_end": False, **changes}
        )


_NUMBERS = {
    "int": "a whole number of at least 0",
    "float": "a number of at least 0",
    "int | None": "a whole number of at least 0, or None",
    "float | None": "a number of at least 0, or None",
}


def _is_number(value: object, kind: str) -> bool:
    if value is None:
        return kind.endswith("None")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return value >= 0 and (isinstance(value, int) or not kind.startswith("int"))


def _is_status_collection(value: object) -> bool:
    return isinstance(value, Collection) and all(isinstance(each, int) for each in value)
