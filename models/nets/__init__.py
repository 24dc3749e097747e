"""Networks as torch modules: LGCNet, its cells, layers and weights, published peers, and networks of the user's."""
