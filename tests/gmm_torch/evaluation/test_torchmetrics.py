import pytest
import torch
from torchmetrics import Metric

from gmm_torch.evaluation.metrics import AUGRC, AURC, FPRAtTPR, augrc, aurc, fpr_at_tpr
from tests.processes import run_processes

WHOLE = {
    AURC: aurc,
    AUGRC: augrc,
    FPRAtTPR: lambda scores, failure: fpr_at_tpr(scores[~failure], scores[failure]),
}
every_metric = pytest.mark.parametrize("metric_class", WHOLE, ids=lambda metric: metric.__name__)


def data(n=101):
    generator = torch.Generator().manual_seed(7)
    failure = torch.rand(n, generator=generator) < 0.3
    scores = torch.randint(20, (n,), generator=generator) - 5 * failure
    return scores.float(), failure


@every_metric
def test_updates_add_up_to_the_functional_of_the_whole(metric_class):
    scores, failure = data()
    metric = metric_class()
    for part, flags in zip(scores.split(17), failure.split(17), strict=True):
        metric.update(part, flags)
    torch.testing.assert_close(metric.compute(), WHOLE[metric_class](scores, failure))


@every_metric
def test_the_order_of_updates_does_not_matter(metric_class):
    scores, failure = data()
    parts = list(zip(scores.split(10), failure.split(10), strict=True))
    forward, backward = metric_class(), metric_class()
    for part in parts:
        forward.update(*part)
    for part in reversed(parts):
        backward.update(*part)
    torch.testing.assert_close(forward.compute(), backward.compute())


@every_metric
def test_merging_two_metrics_is_one_metric_of_both(metric_class):
    scores, failure = data()
    left, right = metric_class(), metric_class()
    left.update(scores[:30], failure[:30])
    right.update(scores[30:], failure[30:])
    left.merge_state(right)
    torch.testing.assert_close(left.compute(), WHOLE[metric_class](scores, failure))


@every_metric
def test_forward_gives_the_batch_and_keeps_the_whole(metric_class):
    scores, failure = data()
    metric = metric_class()
    torch.testing.assert_close(metric(scores[:50], failure[:50]), WHOLE[metric_class](scores[:50], failure[:50]))
    metric(scores[50:], failure[50:])
    torch.testing.assert_close(metric.compute(), WHOLE[metric_class](scores, failure))


@every_metric
def test_what_it_declares_is_so(metric_class):
    failure = data()[1]
    metric = metric_class()
    assert isinstance(metric, Metric)
    assert metric.higher_is_better is False
    assert metric.is_differentiable is False
    assert float(metric(-failure.float(), failure)) < float(metric_class()(failure.float(), failure))
    metric.reset()
    assert metric.scores == []


@every_metric
def test_labels_may_be_integers(metric_class):
    scores, failure = data()
    torch.testing.assert_close(metric_class()(scores, failure.long()), metric_class()(scores, failure))


def test_the_tpr_is_taken():
    scores, failure = torch.tensor([1.0, 2.0, 3.0, 4.0, 3.5]), torch.tensor([0, 0, 0, 0, 1])
    assert float(FPRAtTPR(tpr=0.25)(scores, failure)) == 0
    assert float(FPRAtTPR(tpr=0.5)(scores, failure)) == 1


def _one_of_two(rank, folder):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    scores, failure = data()
    mine = slice(0, 40) if rank == 0 else slice(40, None)
    found = []
    for metric_class in WHOLE:
        metric = metric_class()
        metric.update(scores[mine], failure[mine])
        found.append(float(metric.compute()))
    torch.save(found, folder / str(rank))
    torch.distributed.destroy_process_group()


def test_two_processes_compute_the_whole(tmp_path):
    scores, failure = data()
    run_processes(_one_of_two, (tmp_path,), 2)
    expected = [float(whole(scores, failure)) for whole in WHOLE.values()]
    for name in "01":
        assert torch.load(tmp_path / name) == pytest.approx(expected)
