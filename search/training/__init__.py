"""Training and evaluation of final networks."""
