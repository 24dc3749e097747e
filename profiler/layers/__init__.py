"""Layers of a network: their times, costs, and distance from the peak of the device."""
