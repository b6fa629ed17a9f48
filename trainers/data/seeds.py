"""The seed of an epoch."""

import numpy as np


def epoch_seed(seed: int, epoch: int) -> int:
    """A seed in [0, 2^32) for an epoch of a run with this seed; others for other epochs and other seeds."""
    return int(np.random.SeedSequence([seed % 2**32, epoch]).generate_state(1)[0])
