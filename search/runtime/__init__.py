"""The runtime of searches and trainings: devices, batches, run folders, checkpoints, metrics."""
