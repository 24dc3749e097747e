"""Networks as torch modules: LGCNet, its cells and layers, its weights, and peers to compare with."""
