"""The recipes of docs/guides/monitoring.md, read by the libraries that they are for."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from typing import Any

import prometheus_client
import pytest
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

import sse_fast
from tests.support.pages import blocks, read
from tests.support.scripted_server import Play, Stage, stream

PROMETHEUS, OPENTELEMETRY, LOGS = blocks("docs/guides/monitoring.md", "python")
BODY = b"retry: 0\n\nid: 1\ndata: a\n\ndata: b\n\n"
# Two streams, of which one breaks off, and an attempt that is refused.
PLAYS = [
    Play(body=[BODY], framing="chunked-truncated"),
    Play(status=503, fields=[("Retry-After", "0")]),
    stream(b"data: c\n\n"),
]
COUNTED = {"connections": 2, "failures": 2, "events": 3, "bytes": len(BODY) + 9}


@pytest.fixture
def stage(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Stage:
    stage.plays = PLAYS
    return stage


@pytest.fixture
def registry() -> Iterator[prometheus_client.CollectorRegistry]:
    known = set(prometheus_client.REGISTRY._collector_to_names)
    yield prometheus_client.REGISTRY
    for collector in set(prometheus_client.REGISTRY._collector_to_names) - known:
        prometheus_client.REGISTRY.unregister(collector)


def test_prometheus_collects_the_counters(
    stage: Stage, registry: prometheus_client.CollectorRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    PROMETHEUS.run(stage.origin)
    assert capsys.readouterr().out == "a\nb\nc\n"
    for field, value in COUNTED.items():
        assert registry.get_sample_value(f"sse_{field}_total", {"source": "orders"}) == value
    age = registry.get_sample_value("sse_seconds_since_event", {"source": "orders"})
    assert age is not None
    assert 0 <= age < 60
    assert b'sse_events_total{source="orders"} 3.0' in prometheus_client.generate_latest(registry)


def test_prometheus_without_an_event_has_no_age(
    stage: Stage, registry: prometheus_client.CollectorRegistry
) -> None:
    stage.plays = []
    PROMETHEUS.run(stage.origin)
    assert registry.get_sample_value("sse_events_total", {"source": "orders"}) == 0
    assert registry.get_sample_value("sse_seconds_since_event", {"source": "orders"}) is None


def test_opentelemetry_observes_the_counters(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    reader = InMemoryMetricReader()
    # A process may set its provider once, and no other test does.
    metrics.set_meter_provider(MeterProvider([reader]))
    OPENTELEMETRY.run(stage.origin)
    assert capsys.readouterr().out == "a\nb\nc\n"
    data: Any = reader.get_metrics_data()
    (resource,) = data.resource_metrics
    (scope,) = resource.scope_metrics
    observed = {}
    for metric in scope.metrics:
        (point,) = metric.data.data_points
        assert point.attributes == {"source": "orders"}
        observed[metric.name] = point.value
    assert 0 <= observed.pop("sse.last_event.age") < 60
    assert observed == {f"sse.{field}": value for field, value in COUNTED.items()}


def test_logs_have_the_levels_of_the_table(
    stage: Stage, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
    logger = logging.getLogger("sse_fast")
    monkeypatch.setattr(logger, "level", logger.level)
    LOGS.run(stage.origin)
    records = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert records
    assert {level for level, _ in records} == {"INFO", "WARNING"}
    for _, message in records:
        assert message.startswith("orders")


def test_page_has_every_field_of_the_stats() -> None:
    named = re.findall(r"^\| `(\w+)` \|", read("docs/guides/monitoring.md"), re.MULTILINE)
    stats = sse_fast.EventSource("https://example.com").stats
    assert tuple(named) == stats._fields
