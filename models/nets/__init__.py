"""Networks as torch modules: LGCNet, its cells, layers and weights, and published peers."""
