"""When to ask again, and after how long: the settings of the client, and its states."""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ReadyState", "ReconnectPolicy"]


class ReadyState(enum.IntEnum):
    """The state of the connection (HTML standard, 9.2.2)."""

    CONNECTING = 0
    """There is none yet, or it is to be made again."""
    OPEN = 1
    """Events may come."""
    CLOSED = 2
    """There is none and there will be none."""


@dataclass(frozen=True, kw_only=True)
class ReconnectPolicy:
    """When to ask again, and after how long. All durations are in seconds.

    The wait before an attempt is the longest of `min_delay`, the server's `retry` and its
    Retry-After, and on top of it a random part of a backoff, which grows with every attempt in a
    row that brought nothing: `min(max_delay, initial_delay * multiplier ** n)`.

    Attributes:
        initial_attempts: how often to ask for the first response, before its error is raised;
            None: no limit.
        max_attempts: how often to ask for the next response, once there was a first: in a row,
            without an event or `reset_after` seconds open in between. None: no limit; 0: never.
        max_elapsed: the time from the first failure in a row after which no attempt begins any
            more; None: no limit.
        retry_statuses: the statuses after which to ask again.
        initial_delay: the backoff of the first attempt.
        multiplier: what it grows by with each that brings nothing.
        max_delay: what it grows to.
        jitter: which share of the backoff is random: 1.0 all of it, 0.0 none.
        min_delay: the shortest wait there is, also for one that a callback asks for.
        max_retry: the longest `retry` of a server that is heeded.
        max_retry_after: the longest Retry-After that is heeded.
        reset_after: how long a connection is open before it counts as if it had brought an event.
        reconnect_on_end: whether to ask again after a clean end; None: for GET only.
        max_redirects: how many redirects one attempt follows.
        max_id_size: the largest Last-Event-ID to be sent, in bytes; None: no limit.
    """

    initial_attempts: int | None = 3
    max_attempts: int | None = None
    max_elapsed: float | None = None
    retry_statuses: Collection[int] = field(
        default=frozenset({408, 425, 429, *range(500, 600)} - {501, 505}), repr=False
    )
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
    # The standard knows nothing of declared ends, and the server's time replaces the client's.
    _standard: bool = field(default=False, repr=False)

    @property
    def _whatwg(self) -> bool:
        """Whether it was made by `whatwg()`, so that it follows them also where they lose."""
        return self._standard

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if each.type in _NUMBERS and not _is_number(value, each.type):
                raise ValueError(f"Expected {each.name} to be {_NUMBERS[each.type]}, got {value!r}")
        if not _are_statuses(self.retry_statuses):
            raise ValueError(
                f"Expected retry_statuses to be a collection of int, got {self.retry_statuses!r}"
            )
        if self.reconnect_on_end not in (None, True, False):
            raise ValueError(
                f"Expected reconnect_on_end to be a bool or None, got {self.reconnect_on_end!r}"
            )
        if self.jitter > 1:
            raise ValueError(f"Expected jitter to be a share of 0 to 1, got {self.jitter!r}")

    @classmethod
    def whatwg(cls, **changes: Any) -> Self:
        """What browsers do, as the HTML standard has it (9.2.3); `changes` are fields.

        Network errors and ends are followed by another attempt for ever, after the server's
        `retry` or 3 seconds; any status but 200 is an error. Requests other than GET are guarded
        all the same.
        """
        standard: dict[str, Any] = {
            "initial_attempts": None,
            "retry_statuses": frozenset(),
            "initial_delay": 3.0,
            "multiplier": 1.0,
            "jitter": 0.0,
            "reconnect_on_end": True,
            "max_id_size": None,
            "_standard": True,
        }
        return cls(**{**standard, **changes})

    @classmethod
    def never(cls, **changes: Any) -> Self:
        """One attempt; every error is raised. `changes` are fields."""
        return cls(
            **{"initial_attempts": 1, "max_attempts": 0, "reconnect_on_end": False, **changes}
        )


_NUMBERS = {
    "int": "a whole number from 0",
    "float": "a number from 0",
    "int | None": "a whole number from 0, or None",
    "float | None": "a number from 0, or None",
}


def _is_number(value: object, kind: str) -> bool:
    if value is None:
        return kind.endswith("None")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return value >= 0 and (isinstance(value, int) or not kind.startswith("int"))


def _are_statuses(value: object) -> bool:
    return isinstance(value, Collection) and all(isinstance(each, int) for each in value)
