"""Benchmark harness for collaborative multimodal learning between edge devices and a cloud server."""

__version__ = "0.1.0"
