import torch

from gmm_torch import Verdict


def verdict_on(n):
    p = torch.linspace(0.004, 1, n, dtype=torch.float64)
    return Verdict(torch.zeros(n, 10), torch.arange(n) % 10, -40.5 + torch.arange(n), p, p > 0.05)


def test_a_batch_of_any_size_is_printed_in_a_few_lines():
    lines = repr(verdict_on(2000)).splitlines()
    assert lines[0] == "Verdict on 2,000 inputs: 1,907 accepted, 93 refused; p-values 0.004 to 1"
    assert lines[1].split() == ["input", "prediction", "score", "p-value"]
    assert lines[2].split() == ["0", "0", "-40.5", "0.004", "refused"]
    assert lines[-1] == "and 1,995 more"
    assert len(lines) == 8
    assert max(map(len, lines)) < 80


def test_where_values_cannot_be_read_shapes_are_shown():
    meta = Verdict(*(each.to("meta") for each in verdict_on(3)))
    assert repr(meta) == "Verdict(logits=(3, 10), prediction=(3,), score=(3,), p_value=(3,), accept=(3,))"
    assert repr(Verdict(0, 0, 0, 0, None)) == "Verdict(logits=0, prediction=0, score=0, p_value=0, accept=None)"
    said = []

    def tell(p):
        said.append(repr(verdict_on(3)._replace(p_value=p)))
        return p

    torch.vmap(tell)(torch.rand(2, 3))
    assert "p_value=(3,)" in said[0]
