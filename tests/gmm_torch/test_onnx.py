"""Densities outside of torch."""

import pytest
import torch

from gmm_torch import GaussianMixture

onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.export


@pytest.mark.filterwarnings("ignore")  # the exporter's own
@pytest.mark.parametrize("covariance_type", ["full", "diag"])
def test_onnxruntime_computes_the_same_densities(covariance_type, tmp_path):
    x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0)) * 3 + 5
    mixture = GaussianMixture(3, 4, covariance_type).fit(x)
    batch = torch.export.Dim("batch")
    path = tmp_path / "mixture.onnx"
    program = torch.onnx.export(mixture, (x[:5],), dynamo=True, dynamic_shapes=({0: batch},), verbose=False)
    assert program is not None
    program.save(path)
    session = onnxruntime.InferenceSession(path)
    for n in (1, 7, 200):
        (found,) = session.run(None, {session.get_inputs()[0].name: x[:n].numpy()})
        torch.testing.assert_close(torch.from_numpy(found), mixture.log_prob(x[:n]), rtol=1e-5, atol=1e-5)
