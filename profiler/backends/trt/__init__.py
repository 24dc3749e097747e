"""Backend `tensorrt`: TensorRT or TensorRT-RTX."""
