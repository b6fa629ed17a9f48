"""A detector that several processes fit, each to its share of the inputs, is that of one."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from gmm_torch import FailureDetector
from gmm_torch.distributed import gather_rows, share
from gmm_torch.features import sample
from tests.processes import run_processes

N, KEPT, SHARES = 700, 400, [450, 250]


def network() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    with torch.no_grad():
        net[3].bias -= net(images(200, 9)).mean(0)
    return net


def images(n: int, seed: int) -> Tensor:
    return torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(seed))


def about(fitting: Tensor, calibration: Tensor, most: int, n_empty: int = 0) -> dict[str, Tensor]:
    """What a detector fitted to these, of which `most` may be kept, says of others; some batches may be empty."""
    sample.MAX_INPUTS = most
    detector = FailureDetector(network(), n_components=2, views=1).fit(fitting.split(60))
    detector.calibrate([*calibration.split(45), *[images(0, 0)] * n_empty])
    labels = torch.zeros(len(calibration), dtype=torch.long)
    detector.component_report(zip(calibration.split(45), labels.split(45), strict=True))
    verdict = detector(images(100, 3))
    index, labelled = detector.examples.index, detector.examples.mixtures[0].labelled.sum()
    counts = torch.tensor([detector.n_fitted, detector.n_kept, len(detector.calibration.scores), int(labelled)])
    found = {"score": verdict.score, "p_value": verdict.p_value, "index": index, "counts": counts}
    return found | {"extremes": torch.tensor([detector.format.smallest, detector.format.largest])}


def work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=2)
    fitting, calibration = images(N, 1).split(SHARES)[rank], images(300, 2).split([100, 200])[rank]
    torch.save({most: about(fitting, calibration, most, n_empty=rank) for most in (KEPT, N)}, folder / f"{rank}.pt")
    bad, errors = fitting.clone(), []
    bad[: rank + 1] = torch.nan
    for loader in (bad.split(60), fitting.split(60) if rank else []):
        try:
            FailureDetector(network(), views=1).fit(loader)
        except ValueError as error:
            errors.append(str(error))
    (folder / f"{rank}.errors").write_text("\n".join(errors))
    dist.destroy_process_group()


def test_processes_end_with_the_detector_of_one(tmp_path, monkeypatch):
    monkeypatch.setattr(sample, "MAX_INPUTS", sample.MAX_INPUTS)
    run_processes(work, (tmp_path,), 2)
    results = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)
    for most in (KEPT, N):
        alone = about(images(N, 1), images(300, 2), most)
        assert results[0][most]["counts"].tolist()[:2] == [N, most]
        for name in ("index", "counts", "extremes"):
            assert torch.equal(results[0][most][name], alone[name]), name
        # a sum of two shares has other last digits, which move a rank now and then
        torch.testing.assert_close(results[0][most]["score"], alone["score"], rtol=1e-2, atol=1e-2)
        assert (results[0][most]["p_value"] - alone["p_value"]).abs().max() <= 1.01 / 201
    errors = {(tmp_path / f"{rank}.errors").read_text() for rank in range(2)}
    assert len(errors) == 1
    bad, empty = errors.pop().split("\n")
    assert f"3 of {N} inputs give NaN or infinity" in bad
    assert "at least one batch in every process" in empty


@pytest.mark.parametrize("n", [0, 5])
def test_rows_and_shares_of_one_process_are_its_own(n):
    assert len(gather_rows(torch.ones(n, 2))) == len(share(torch.ones(n, 2))) == n
