"""Settings that every test runs under."""

import torch

# Tests fork children (tests/fairseq_runs.py), and a fork must not inherit a pool of OpenMP threads.
torch.set_num_threads(1)
