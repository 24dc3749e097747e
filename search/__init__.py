"""Architecture search: data, supernet, latency constraint, selection, training."""
