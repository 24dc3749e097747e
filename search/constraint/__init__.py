"""Latency constraint: differentiable latency, projection onto a target, feasibility, refinement."""
