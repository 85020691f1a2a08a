"""What comes before a run and keeps it alive: recipes, sweeps, plans, jobs; and ranks for who only decodes."""
