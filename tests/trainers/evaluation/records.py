"""Made-up records."""

import numpy as np
import torch

from trainers.records.record import Records


def made_up(score, source="test", **columns):
    """Records with these scores; other columns as given, or of no meaning."""
    score = torch.as_tensor(score, dtype=torch.float64)
    n = len(score)
    words = {name: np.full(n, value, dtype=object) for name, value in (("source", source), ("path", ""), ("error", ""))}
    numbers = {
        "index": torch.arange(n),
        "label": torch.zeros(n).long(),
        "prediction": torch.zeros(n).long(),
        "p_value": torch.ones(n).double(),
        "accept": torch.ones(n).bool(),
        "finite": torch.ones(n).bool(),
        "max_softmax": score,
        "components": torch.zeros(n, 1).long(),
        "features": torch.zeros(n, 0),
    }
    return Records(score=score, **words, **{**numbers, **{name: torch.as_tensor(v) for name, v in columns.items()}})
