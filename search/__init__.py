"""The architecture search: data, supernet, latency constraint, training."""
