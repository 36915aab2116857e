"""Measurements: speed (``pytest bench --benchmark-enable``), backbones side by side, pictures of their laws."""
