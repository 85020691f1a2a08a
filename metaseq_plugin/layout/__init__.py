"""How a model is cut and where the pieces lie: boxes, cuts, ranks in a grid; no model, no file."""
