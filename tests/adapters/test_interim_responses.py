"""Interim responses before the final one are skipped, except where http.client returns them."""

from __future__ import annotations

import pytest
import urllib3

from sse_fast import EventSource, ReconnectPolicy, ResponseError
from tests.support.clients import READERS, UNREAD_UNDER_TRIO, Reader
from tests.support.eventsources import LIBRARIES, SOURCES, Way, way_params
from tests.support.faults import FaultServer, Step, head

pytestmark = UNREAD_UNDER_TRIO

EVENT = b"data: a\n\n"
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n"
INTERIM = {
    "hints": HINTS,
    "hints twice": HINTS * 2,
    "continue, hints": b"HTTP/1.1 100 Continue\r\n\r\n" + HINTS,
    "processing": b"HTTP/1.1 102 Processing\r\n\r\n",
    "unknown": b"HTTP/1.1 199 Whatever\r\n\r\n",
}
OVER_HTTP_CLIENT = {"requests", "urllib3", "urllib.request", "http.client"}


def script(case: str, has_pause: bool) -> list[Step]:
    final = head() + EVENT
    return [INTERIM[case], 0.01, final] if has_pause else [INTERIM[case] + final]


@pytest.mark.parametrize("has_pause", [False, True])
@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[] if case == "hints" else pytest.mark.matrix) for case in INTERIM],
)
@pytest.mark.parametrize("way", way_params(SOURCES.values(), LIBRARIES))
def test_interim_response_is_skipped_by_client(
    faults: FaultServer, way: Way, case: str, has_pause: bool
) -> None:
    faults.scripts["/"] = script(case, has_pause)
    outcome = way.read(f"{faults.url}/", policy=ReconnectPolicy.never())
    if way.library in OVER_HTTP_CLIENT:
        assert isinstance(outcome.error, ResponseError)
        assert "interim response" in str(outcome.error)
    else:
        assert [event.data for event in outcome.events] == ["a"]


@pytest.mark.parametrize("reader", READERS.values(), ids=str)
def test_interim_response_is_skipped_by_reader(faults: FaultServer, reader: Reader) -> None:
    faults.scripts["/"] = script("hints", has_pause=True)
    outcome = reader.read(f"{faults.url}/")
    if reader.library in OVER_HTTP_CLIENT:
        assert isinstance(outcome.error, ResponseError)
        assert "interim response" in str(outcome.error)
    else:
        assert [event.data for event in outcome.events] == ["a"]


def test_final_response_is_not_that_of_next_request(faults: FaultServer) -> None:
    """The pool must not use the connection again, on which the final response is to come."""
    faults.scripts["/"] = [HINTS, 0.05, head().replace(b"Connection: close\r\n", b"") + EVENT]
    faults.scripts["/other"] = [head("Content-Length: 9") + b"data: b\n\n"]
    policy = ReconnectPolicy.never()
    with urllib3.PoolManager() as pool:
        with pytest.raises(ResponseError):
            EventSource(f"{faults.url}/", client=pool, policy=policy).open()
        with EventSource(f"{faults.url}/other", client=pool, policy=policy) as source:
            assert [event.data for event in source] == ["b"]
