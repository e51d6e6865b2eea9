"""What `sse-fast bench` and the benchmarks of the repository share; nothing else loads it."""
