import pytest
import torch
from scipy import special

from gmm_torch.mixture.linear_algebra import log_normal_cdf


def test_the_logarithm_of_the_normal_cdf_is_scipys_and_never_above_zero():
    x = torch.linspace(-300, 9, 20_001, dtype=torch.float64)
    expected = torch.from_numpy(special.log_ndtr(x.numpy()))
    torch.testing.assert_close(log_normal_cdf(x), expected, rtol=4e-7, atol=2e-7)
    assert (log_normal_cdf(x) <= 0).all()
    torch.testing.assert_close(log_normal_cdf(x.float()).double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_its_gradient_is_right_however_far_out(dtype):
    x = torch.tensor([-1e2, -1e4, -2e4, -4.5e4, -1e6, -1e10, -1e18], dtype=dtype, requires_grad=True)
    log_normal_cdf(x).sum().backward()
    torch.testing.assert_close(x.grad, -x.detach(), rtol=1e-3, atol=0)  # the inverse Mills ratio is -x + 1/x ...
    near = torch.linspace(-8, 8, 101, dtype=torch.float64, requires_grad=True)
    log_normal_cdf(near).sum().backward()
    z = near.detach().numpy()
    mills = torch.from_numpy((2 / torch.pi) ** 0.5 / special.erfcx(-z / 2**0.5))
    torch.testing.assert_close(near.grad, mills, rtol=1e-5, atol=1e-6)
