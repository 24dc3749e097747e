"""Reading of any ONNX file as a self-contained model with static shapes."""
