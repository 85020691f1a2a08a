"""What a run will need, before it is started: memory, time, exchange, checkpoints, energy."""
