"""Streams, rivals and timing for `sse-fast bench` and for the benchmarks in `bench/`."""
