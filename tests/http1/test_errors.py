"""Errors leave their process, with the response that they carry."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from types import MappingProxyType
from typing import Any

import pytest
import requests

import sse_fast
from sse_fast import (
    DecodeError,
    Event,
    EventTooLarge,
    FatalError,
    Parser,
    Response,
    ResponseError,
    RetriableError,
    SSEError,
    StreamIncomplete,
    StreamTimeout,
    TransportError,
    iter_events,
    open_stream,
)
from tests.support.clients import OPENERS
from tests.support.faults import FaultServer, head

BODY = b'{"error": "busy"}'


class Refused(ResponseError):
    """A subclass with a constructor of its own."""

    def __init__(self, provider: str, *, response: Response) -> None:
        super().__init__(f"{provider} refused", response)
        self.provider = provider
        self.lock = threading.Lock()


class Slotted(SSEError):
    __slots__ = ("code",)


def with_response(kind: type[Any] = ResponseError, **options: Any) -> Any:
    response = Response(429, {"Content-Type": "application/json"}, "http://h/", threading.Lock())
    response.body = BODY
    if kind is Refused:
        return Refused("h", response=response)
    return ResponseError("Expected status 200, got 429", response, 7.0)


def make_errors() -> dict[str, SSEError]:
    event = Event("message", "a", "1", None)
    errors: dict[str, SSEError] = {
        "SSEError": SSEError("a", 1),
        "EventTooLarge": EventTooLarge(5, 4, [event], offset=3, filename="f"),
        "EventTooLarge, object": EventTooLarge(5, 4, [Event("m", threading.Lock(), "1", 5), event]),
        "DecodeError": DecodeError(event, [event]),
        "ResponseError": with_response(),
        "StreamIncomplete": StreamIncomplete("a"),
        "TransportError": TransportError("a", phase="head", sent=False),
        "StreamTimeout": StreamTimeout("a"),
        "RetriableError": RetriableError("a", threading.Lock(), delay=3.0),
        "FatalError": FatalError({"a": [threading.Lock()]}),
        "Refused": with_response(Refused),
        "Slotted": Slotted("a"),
    }
    errors["Slotted"].code = 5  # type: ignore[attr-defined]
    errors["TransportError"].permanent = True  # type: ignore[attr-defined]
    for error in errors.values():
        error.__cause__ = OSError(threading.Lock())
    return errors


WAYS: dict[str, Callable[[Any], Any]] = {
    **{
        f"pickle {number}": lambda error, number=number: pickle.loads(pickle.dumps(error, number))
        for number in range(pickle.HIGHEST_PROTOCOL + 1)
    },
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", make_errors())
def test_error_is_copied_and_pickled(name: str, way: str) -> None:
    error: Any = make_errors()[name]
    made = WAYS[way](error)
    assert type(made) is type(error)
    assert str(made) == str(error) or "lock" in str(error)
    assert len(made.args) == len(error.args)
    for attribute in ("size", "limit", "offset", "filename", "retry_after", "phase", "sent"):
        assert getattr(made, attribute, None) == getattr(error, attribute, None)
    for attribute in ("delay", "provider", "code", "permanent"):
        assert getattr(made, attribute, None) == getattr(error, attribute, None)
    if hasattr(error, "events"):
        assert [(each.event, each.id) for each in made.events] == [
            (each.event, each.id) for each in error.events
        ]
        assert made.events[-1] == error.events[-1]
    if getattr(error, "response", None) is not None:
        assert made.response.status == 429
        assert dict(made.response.headers) == {
            "Content-Type" if way == "copy" else "content-type": "application/json"
        }
        assert (made.response.url, made.response.body) == ("http://h/", BODY)
        assert (made.response.raw is None) == (way != "copy")


def test_values_that_cannot_be_pickled_become_texts() -> None:
    error = pickle.loads(pickle.dumps(RetriableError("a", threading.Lock(), [print, open])))
    assert error.args == ("a", "<_thread.lock, not pickled>", [print, open])


def test_error_of_local_class_is_pickled_as_its_base() -> None:
    class Local(StreamTimeout):
        pass

    error = pickle.loads(pickle.dumps(Local("late", phase="head")))
    assert type(error) is StreamTimeout
    assert (str(error), error.phase) == ("late", "head")


def test_error_whose_pickle_cannot_be_loaded_is_replaced() -> None:
    class_of_library = requests.exceptions.JSONDecodeError
    inner = class_of_library("a", "b", 0)
    error: Any = pickle.loads(pickle.dumps(FatalError(inner, requests.Session().send)))
    assert len(error.args) == 2


def test_errors_that_refer_to_each_other_are_pickled() -> None:
    error: Any = FatalError("a")
    error.itself = error
    made = pickle.loads(pickle.dumps(error))
    assert made.itself is made
    copied = copy.deepcopy(error)
    assert copied.itself is copied
    error.other = StreamIncomplete("b", threading.Lock())
    error.other.first = error
    error.many = [error.other, threading.Lock()]
    error.many.append(error.many)
    made = pickle.loads(pickle.dumps(error))
    assert made.other.first is made
    assert made.other.args == ("b", "<_thread.lock, not pickled>")
    assert made.many[0] is made.other


def test_errors_within_errors_are_pickled_quickly() -> None:
    error: Any = StreamTimeout("0")
    error.lock = threading.Lock()
    for number in range(1, 50):
        error = FatalError(str(number), [error, threading.Lock()])
    made = pickle.loads(pickle.dumps(error))
    for _ in range(1, 50):
        made = made.args[1][0]
    assert type(made) is StreamTimeout
    assert made.lock == "<_thread.lock, not pickled>"


def test_pickled_decode_error_names_its_cause() -> None:
    with pytest.raises(DecodeError) as caught:
        Parser(decode=int).feed(b"data: x\n\n")
    for way, copied in WAYS.items():
        made = copied(caught.value)
        assert "decode raised ValueError" in str(made), way
        made.__cause__ = RuntimeError("the traceback of an executor")
        assert "decode raised ValueError" in str(made) or way in ("copy", "deepcopy")


def test_headers_of_any_mapping_are_pickled() -> None:
    error = ResponseError("a", Response(500, MappingProxyType({"A": "b"}), "", None))
    assert pickle.loads(pickle.dumps(error)).response.headers["a"] == "b"


# -- From worker processes -------------------------------------------------------------------------


def refuse(name: str, url: str) -> None:
    if name == "open_stream":
        open_stream(url)
    elif name == "EventSource":
        next(sse_fast.EventSource(url, policy=sse_fast.ReconnectPolicy.never()))
    else:
        with OPENERS[name](url) as response:
            iter_events(response)


def fail_in_middle(_: str, url: str) -> None:
    list(open_stream(url))


def raise_refused(_: str, __: str) -> None:
    raise with_response(Refused) from OSError(threading.Lock())


@pytest.mark.parametrize("name", ["open_stream", "EventSource", *OPENERS])
def test_refused_response_is_pickled(faults: FaultServer, name: str) -> None:
    fields = ["Retry-After: 7", f"Content-Length: {len(BODY)}"]
    faults.scripts["/"] = [head(*fields, status="429 Slow", type="application/json"), BODY]
    with pytest.raises(ResponseError) as caught:
        refuse(name, faults.url + "/")
    for way, copied in WAYS.items():
        error = copied(caught.value)
        assert (error.response.status, error.response.json()) == (429, {"error": "busy"}), way
        assert error.retry_after == 7.0
        assert error.response.headers["content-type"] == "application/json"
        assert str(error) == str(caught.value)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_errors_cross_processes(faults: FaultServer, method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip("no such start method")
    faults.scripts["/"] = [head("Retry-After: 7", status="429 Slow", type="text/plain"), BODY]
    faults.scripts["/cut"] = [head("Content-Length: 100"), b"data: a\n\n"]
    # By fork, the workers start before this process has threads that hold locks.
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        refused = pool.submit(refuse, "open_stream", faults.url + "/")
        cut = pool.submit(fail_in_middle, "", faults.url + "/cut")
        subclass = pool.submit(raise_refused, "", "")
        error = refused.exception(30)
        assert isinstance(error, ResponseError)
        assert (error.response.status, error.response.body, error.retry_after) == (429, BODY, 7.0)
        assert isinstance(cut.exception(30), TransportError)
        error = subclass.exception(30)
        assert isinstance(error, Refused)
        assert (error.provider, error.response.text) == ("h", BODY.decode())


# -- The body of a refused response ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("content_type", "body", "text"),
    [
        (None, b"caf\xc3\xa9 \xff", "café \ufffd"),
        ("text/plain; charset=iso-8859-1", b"caf\xe9", "café"),
        ('text/plain; charset="UTF-8"', b"caf\xc3\xa9", "café"),
        ("text/plain; charset=utf-16le", "é".encode("utf-16le"), "é"),
        ("text/plain; charset=none", b"caf\xc3\xa9", "café"),
        ("text/plain; charset=hex", b"caf\xc3\xa9", "café"),
        ("text/plain; charset=undefined", b"caf\xc3\xa9", "café"),
        ("text/plain; charset=a\0b", b"caf\xc3\xa9", "café"),
        ("text/html; charset=latin-1, text/html", b"caf\xe9", "café"),
        ("application/json", b"\xef\xbb\xbfa", "a"),
    ],
)
def test_text_uses_charset_of_content_type(
    content_type: str | None, body: bytes, text: str
) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    response = Response(500, headers, "", None)
    response.body = body
    assert response.text == text


def test_json_of_body_is_parsed() -> None:
    response = Response(500, {}, "", None)
    for body in (BODY, b"\xef\xbb\xbf" + BODY, BODY.decode().encode("utf-16")):
        response.body = body
        assert response.json() == {"error": "busy"}
    response.body = BODY[:-1]
    with pytest.raises(ValueError, match="delimiter"):
        response.json()
