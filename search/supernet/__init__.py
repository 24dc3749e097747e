"""The supernet: architecture parameters, sampling, training."""
