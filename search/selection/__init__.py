"""Selection of architectures from a trained supernet."""
