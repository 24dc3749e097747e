"""The supernet: architecture parameters, sampling of paths, training."""
