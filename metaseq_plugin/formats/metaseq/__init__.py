"""metaseq's checkpoints, whole, in model parts or in flattened shards."""
