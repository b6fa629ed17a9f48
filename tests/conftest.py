"""Settings of every test process."""

import os

import torch

if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers share the cores: threads of several would wait for each other at every operation.
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
