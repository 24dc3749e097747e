"""CUDA through pycuda, the driver's bindings and torch: devices, graphs, timed replays."""
