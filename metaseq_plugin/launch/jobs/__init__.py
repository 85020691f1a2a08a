"""Jobs: ranks started through submitit, watched, stopped in time and started again."""
