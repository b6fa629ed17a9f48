"""The one table of evaluated inputs."""

from dataclasses import replace

import pytest
import torch

from gmm_torch.detector import Features
from gmm_torch.detector.verdict import Verdict
from tests.trainers.evaluation.records import made_up
from trainers.records.record import Records, records_of, unreadable


def verdict_on(logits, accept=True):
    n = len(logits)
    return Verdict(logits, logits.argmax(1), torch.zeros(n), torch.ones(n), torch.full((n,), accept))


@pytest.mark.parametrize("where", ["logits", "features", "score"])
def test_what_is_not_finite_is_refused_whatever_the_verdict(where):
    logits, features = torch.eye(3), torch.ones(3, 1, 2)
    verdict = verdict_on(logits)
    {"logits": logits, "features": features, "score": verdict.score}[where][1] = torch.nan
    records = records_of(Features(logits[:, None], {"layer": features}), verdict)
    assert records.finite.tolist() == records.accept.tolist() == [True, False, True]
    assert records.score.tolist() == [0, -torch.inf, 0]


def test_a_file_without_an_image_is_refused_without_class_score_p_value_or_component():
    columns = {"components": torch.ones(2, 1).long(), "path": ["a", "b"], "error": ["", "damaged"]}
    records = records_of(Features(torch.eye(2)[:, None], {}), verdict_on(torch.eye(2)), **columns)
    first, second = records.records(["cat", "dog"])
    assert (first.path, first.class_name, first.component, first.error) == ("a", "cat", 1, "")
    assert repr(second[:7]) == repr(unreadable("b", "damaged")[:7])


def test_sources_have_failures_and_what_they_are_compared_with():
    wrong = [0, 1, 0]
    parts = [made_up([1.0, 2.0, 3.0], name, prediction=wrong) for name in ("test", "adversarial/pgd", "ood/noise")]
    records = Records.cat([*parts, made_up([])])
    picked = {
        name: records.score[records.failures(name)].tolist() for name in ("errors", "adversarial/pgd", "ood/noise")
    }
    assert picked == {"errors": [2], "adversarial/pgd": [2], "ood/noise": [1, 2, 3]}
    assert [int(records.good(name).sum()) for name in picked] == [2, 2, 3]
    assert [len(part) for part in records.split([3, 0, 6])] == [3, 0, 6]


def test_columns_of_several_lengths_are_refused():
    with pytest.raises(ValueError, match="columns of one length"):
        replace(made_up([1.0, 2.0]), label=torch.zeros(1))
