import torch

from gmm_torch.scores.conditional_tail import log_conditional_tail


def test_a_variable_that_is_known_from_the_other_has_the_same_tail_in_every_type():
    covariances = torch.ones(1, 2, 2, dtype=torch.float64)
    pairs = torch.tensor([[0.0, -1e-3], [1.0, 1.0], [0.5, 0.4995], [0.0, 1e-4]], dtype=torch.float64)
    given = (pairs, torch.zeros(1).double(), torch.zeros(1, 2).double(), covariances)
    wide, narrow = log_conditional_tail(*given), log_conditional_tail(*(value.float() for value in given))
    torch.testing.assert_close(narrow.double(), wide, rtol=1e-3, atol=1e-4)
