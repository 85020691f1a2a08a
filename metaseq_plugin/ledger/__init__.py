"""The account of a run: operations, rates, energy and carbon."""
