"""Measurements: throughput. Run with ``pytest bench --benchmark-enable``."""
