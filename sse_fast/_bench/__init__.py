"""Shared by `sse-fast bench` and the benchmarks of the repository: streams, rivals, timing."""
