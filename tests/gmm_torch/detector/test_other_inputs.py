"""Classifiers of what is no image: rows of a table, and tokens of a text; few classes and many."""

import pytest
import torch
from scipy import stats
from sklearn.datasets import load_breast_cancer
from torch import nn

from gmm_torch import FailureDetector
from gmm_torch.scores import make_score

VOCABULARY, LENGTH, N_TOPICS = 60, 24, 4


def train(net, x, y, steps, rate=1e-2):
    optimiser = torch.optim.Adam(net.parameters(), rate)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        rows = torch.randint(0, len(x), (64,), generator=generator)
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
        optimiser.step()
    return net.eval()


def auroc(good, bad):
    return stats.mannwhitneyu(good.detach().numpy(), bad.detach().numpy()).statistic / (len(good) * len(bad))


@pytest.fixture(scope="module")
def table():
    """Scikit-learn's breast cancer data: 569 rows of 30 features, standardised, in a fixed random order."""
    data = load_breast_cancer()
    order = torch.randperm(569, generator=torch.Generator().manual_seed(0))
    x, y = torch.tensor(data.data, dtype=torch.float32)[order], torch.tensor(data.target)[order]
    x = (x - x[:220].mean(0)) / x[:220].std(0)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(30, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 2))
    train(net, x[:220], y[:220], 150)
    return net, x, y


def test_a_table_gets_valid_p_values_and_odd_rows_are_refused(table, tmp_path):
    net, x, y = table
    assert (net(x[440:]).argmax(1) == y[440:]).float().mean() > 0.9
    detector = FailureDetector(net, n_components=2).fit(x[:220].split(64)).calibrate(x[220:440].split(64))
    assert detector.extractor.views == ("identity",)
    verdict = detector(x[440:])
    assert verdict.accept.float().mean() > 0.85
    shuffled = torch.stack([column[torch.randperm(129)] for column in x[440:].unbind(1)], dim=1)
    far = x[440:] * 6
    assert auroc(verdict.score, detector(far).score) > 0.9
    assert auroc(verdict.score, detector(shuffled).score) > 0.7  # each value is usual, their combination is not
    detector.save(tmp_path / "d.safetensors")
    loaded = FailureDetector.load(tmp_path / "d.safetensors", net)
    assert torch.equal(loaded(x[440:]).p_value, verdict.p_value)
    explanation = detector.explain(far[:3], ("malign", "benign"), n_features=100)
    names = [name for name, _ in explanation[0].mixtures["moment_likelihood"].features]
    assert any(name.endswith(":input[3]") for name in names)
    assert "predicted malign" in str(explanation[0]) or "predicted benign" in str(explanation[0])
    assert ":input[" in explanation[0].numbers()


class TextClassifier(nn.Module):
    """A small transformer over integer tokens (N, T); token 0 is padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 24)
        self.position = nn.Parameter(0.02 * torch.randn(LENGTH, 24))
        layer = nn.TransformerEncoderLayer(24, 4, 48, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(24, N_TOPICS)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        padding = tokens == 0
        hidden = self.encoder(self.embed(tokens) + self.position[: tokens.shape[1]], src_key_padding_mask=padding)
        kept = (~padding).to(hidden)[..., None]
        return self.head((hidden * kept).sum(1) / kept.sum(1))


def texts(n, seed):
    """(n, T) tokens of four topics, each with a vocabulary of its own that overlaps its neighbour's; padded."""
    generator = torch.Generator().manual_seed(seed)
    topic = torch.randint(0, N_TOPICS, (n,), generator=generator)
    words = torch.randint(0, 16, (n, LENGTH), generator=generator)
    tokens = 1 + 10 * topic[:, None] + words
    length = torch.randint(8, LENGTH + 1, (n, 1), generator=generator)
    return torch.where(torch.arange(LENGTH) < length, tokens, 0), topic


@pytest.fixture(scope="module")
def text():
    torch.manual_seed(0)
    net = train(TextClassifier(), *texts(1000, 0), 120, 3e-3)
    detector = FailureDetector(net, n_components=4).fit(texts(800, 1)[0].split(200))
    return net, detector.calibrate(texts(400, 2)[0].split(200))


def test_texts_of_no_topic_are_refused(text):
    net, detector = text
    x, topic = texts(500, 3)
    assert (net(x).argmax(1) == topic).float().mean() > 0.9
    verdict = detector(x)
    torch.testing.assert_close(verdict.logits, net(x), rtol=1e-4, atol=1e-4)
    assert verdict.accept.float().mean() > 0.88
    generator = torch.Generator().manual_seed(4)
    noise = torch.randint(1, VOCABULARY, (500, LENGTH), generator=generator)
    rare = torch.randint(57, VOCABULARY, (500, LENGTH), generator=generator)  # words that no text has
    assert auroc(verdict.score, detector(noise).score) > 0.85
    assert auroc(verdict.score, detector(rare).score) > 0.85


@pytest.mark.export
def test_a_detector_of_texts_is_saved_explained_and_exported(text, tmp_path):
    net, detector = text
    x = texts(9, 5)[0]
    detector.save(tmp_path / "d.safetensors")
    assert torch.equal(FailureDetector.load(tmp_path / "d.safetensors", net)(x).score, detector(x).score)
    numbers = detector.explain(x)[0].numbers()
    assert "head:input[" in numbers or "log-probability" in numbers
    batch = torch.export.Dim("batch", min=2, max=512)
    program = torch.export.export(detector.eval(), (x,), dynamic_shapes={"x": {0: batch}})
    for n in (2, 31):
        other = texts(n, 6)[0]
        torch.testing.assert_close(program.module()(other).score, detector(other).score, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n_classes", [2, 300])
def test_any_number_of_classes(n_classes):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, n_classes))
    x = torch.rand(400, 1, 6, 6)
    detector = FailureDetector(net, n_components=2).fit(x[:200].split(50)).calibrate(x[200:].split(50))
    verdict = detector(x[:60])
    assert verdict.logits.shape == (60, n_classes)
    assert torch.isfinite(verdict.score).all()
    assert verdict.accept.float().mean() > 0.8
    assert not detector(20 * x[:5]).accept.any()


@pytest.mark.parametrize(
    ("shape", "views"),
    [((1, 6, 6), 3), ((3, 6, 6), 3), ((4, 6, 6), 3), ((2, 6, 6), 1), ((8, 6, 6), 1), ((1, 4, 20), 1), ((1, 1, 40), 1)],
)
def test_only_what_has_the_shape_of_an_image_is_mirrored_unless_somebody_says_so(shape, views):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(shape[0], 6, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    x = torch.rand(100, *shape)
    detector = FailureDetector(net, n_components=1).fit(x[:50].split(25)).calibrate(x[50:].split(25))
    assert len(detector.extractor.views) == views
    for asked in (["identity"], ["identity", "mirror"]):
        score = make_score("mean_log_probability")
        assert FailureDetector(net, score=score, views=asked).fit([x]).extractor.views == tuple(asked)
