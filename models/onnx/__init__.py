"""ONNX files: export, inspection, costs, signature."""
