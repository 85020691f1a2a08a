"""Ranks in a grid, and the plans that cut one plain model over them."""
