"""CUDA through pycuda and the driver: devices, graphs, timed replays."""
