"""Cost constraint: differentiable costs, objectives, projection onto a target, feasibility, refinement."""
