"""Private attributes that a program changes may break an object, but not the interpreter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.commands import run_python

FUZZ = """
import faulthandler, itertools, sys, warnings
from importlib import import_module
faulthandler.enable()
warnings.simplefilter("ignore")
import sse_fast
from sse_fast import iter_columns, iter_events, read_columns
from sse_fast.compat._dialect import Dialect

BODY = b"id: 1\\nevent: x\\ndata: a\\n\\n: c\\nretry: 5\\ndata: b\\n\\n" * 2
CORE = sys.argv[1]
parser_module = import_module(f"sse_fast._core.parser_{CORE}")
dialect_module = import_module(f"sse_fast.compat._dialect_{CORE}")

def feed(parser):
    parser.feed(BODY[:7]); parser.feed(BODY[7:]); parser.feed(b"data: a\\n\\n")
    parser.last_event_id, parser.retry, parser.pending, parser.done, parser._completed
    parser.reset(); parser.feed(BODY)

def use_event(event):
    repr(event), event == event, hash(event), event.encode(), event.json(), event.__reduce__()

def iterate(stream):
    for _ in range(9):
        next(stream, None)
    stream.last_event_id, stream.pending
    stream.close()

def chunks(stream):
    iterate(stream)
    stream.flush()

def use_columns(columns):
    len(columns), repr(columns)
    columns.__arrow_c_schema__(), columns.__arrow_c_array__(), columns.__arrow_c_stream__()

def used(stream, count=1):
    for _ in range(count):
        next(stream)
    return stream

CASES = [
    (lambda: parser_module.Parser(), feed),
    (lambda: parser_module.Parser(decode=bytes, until=lambda e: False, on_comment=str), feed),
    (lambda: parser_module.Parser(until_event="x"), feed),
    (lambda: parser_module.Event("a", "1", "c", 2), use_event),
    (lambda: dialect_module.DialectParser(Dialect(keep_lines=True, read_retry=int)), feed),
    (lambda: iter_events([BODY, bytearray(BODY), BODY]), iterate),
    (lambda: used(iter_events([BODY, BODY])), iterate),
    (lambda: iter_events([BODY, BODY], on_comment=str, on_chunk=len), iterate),
]
if CORE == "c":
    CASES += [
        (lambda: iter_columns([BODY, BODY], batch_size=1), chunks),
        (lambda: used(iter_columns([BODY, BODY], batch_size=1)), chunks),
        (lambda: iter_columns(BODY, batch_size=1, threads=1), chunks),
        (lambda: used(iter_columns([BODY, BODY], batch_size=1))._reading, lambda it: it.fill()),
        (lambda: used(iter_columns(BODY, batch_size=3))._reading, lambda it: it.fill()),
        (lambda: read_columns(BODY, batch_size=1), use_columns),
        (lambda: next(iter_columns([BODY], batch_size=1)), use_columns),
    ]
    columns_c = import_module("sse_fast.columns._columns_c")
    batch = columns_c.RecordBatch()
    merger = columns_c.SegmentMerger(seed=1, streaming=True)
    for call in (
        lambda: len(batch), batch.export_array, lambda: merger.take(None, []),
        lambda: merger.attach_dictionary([None]), lambda: merger.attach_dictionary([batch]),
        lambda: columns_c.concatenate([None, batch], views=False, offsets=False),
        lambda: columns_c.concatenate([batch], views=True, offsets=False),
    ):
        try:
            call()
        except Exception:
            continue
        raise AssertionError(call)

VALUES = [None, "x", b"x", 1, -5, 2**40, [], [None], [1, 2], (), {}, object(), iter([None])]
count = 0
for make, use in CASES:
    names = [name for name in dir(make()) if name.startswith("_") and not name.startswith("__")]
    for name in [*names, "end_reason", "response"]:
        for value in [*VALUES, "delete"]:
            target = make()
            try:
                if value == "delete":
                    delattr(target, name)
                else:
                    setattr(target, name, value)
            except Exception:
                continue
            count += 1
            try:
                use(target)
            except Exception:
                pass
            try:
                del target
            except Exception:
                pass
print(count)
"""


def test_changed_private_attributes_do_not_crash(core: Any, tmp_path: Path) -> None:
    name = core.__name__.rpartition("_")[2]
    assert int(run_python(FUZZ, name, directory=tmp_path)) > 100
