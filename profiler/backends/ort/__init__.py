"""Backends `onnxruntime` and `onnxruntime-tensorrt`."""
