"""Costs of ONNX graphs: multiply-accumulates, parameters, bytes, and the precision they are computed in."""
