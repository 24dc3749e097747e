"""State of networks: weights in files, state dicts of any origin, transfer between networks, probes of logits."""
