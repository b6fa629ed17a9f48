"""Inputs by name and several inputs, from loader to verdict; padding is no content."""

import pytest
import torch
from torch import nn

from gmm_torch import FailureDetector
from gmm_torch.detector import FeatureExtractor
from gmm_torch.features.inputs import InputKeys, labels_of
from gmm_torch.features.places import in_slice, order_among, tokens_at
from gmm_torch.mixture.sampling import row_keys
from gmm_torch.scores import make_score

WORDS, WIDTH, N_CLASSES = 30, 12, 3


class Reader(nn.Module):
    """A transformer over (N, T) tokens that leaves out what the mask leaves out; gives a mapping."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, 2, 16, dropout=0.1, batch_first=True) for _ in range(3)
        )
        self.head = nn.Linear(WIDTH, N_CLASSES)

    def forward(self, input_ids, attention_mask=None, labels=None):
        hidden = self.embed(input_ids)
        for layer in self.layers:
            hidden = layer(hidden, src_key_padding_mask=None if attention_mask is None else attention_mask == 0)
        loss = None if labels is None else hidden.sum()
        return {"loss": loss, "logits": self.head(hidden[:, 0])}


def reader():
    torch.manual_seed(0)
    return Reader().eval()


def texts(n, seed, longest=10):
    """Texts as a data collator gives them: padded to the longest of the batch."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, longest + 1, (n, 1), generator=generator)
    mask = torch.arange(int(lengths.max())) < lengths
    ids = torch.randint(1, WORDS, (n, 10), generator=generator)[:, : mask.shape[1]] * mask
    labels = torch.randint(0, N_CLASSES, (n,), generator=generator)
    return {"input_ids": ids, "attention_mask": mask.long(), "labels": labels}


def padded(batch, width):
    """The same texts with more padding."""
    return {
        name: nn.functional.pad(value, (0, width - value.shape[1])) if value.dim() == 2 else value
        for name, value in batch.items()
    }


def part(batch, rows):
    return {name: value[rows] for name, value in batch.items()}


NAMES = [f"layers.{i}{each}" for i in ("0", "1", "2") for each in ("[0]", "[1:]")]


def test_a_detector_of_texts_by_name_judges_them_alike_however_they_are_batched_and_padded(tmp_path):
    net = reader()
    parts = [texts(40, seed) for seed in range(6)]
    detector = FailureDetector(net, n_components=1).fit(parts[:3]).calibrate(parts[3:])
    assert detector.extractor.layers == NAMES
    assert detector.extractor.views == ("identity",)
    new = texts(30, 9)
    verdict = detector(new)
    torch.testing.assert_close(verdict.logits, net(new["input_ids"], new["attention_mask"])["logits"])
    alone = torch.cat([detector(part(new, slice(i, i + 1))).score for i in range(30)])
    wide = detector(padded(new, 17)).score
    for score in (alone, wide):
        torch.testing.assert_close(score, verdict.score, rtol=1e-3, atol=1e-3)
    assert {each.mixtures["moment_likelihood"].layer for each in detector.explain(new)} <= {*NAMES, None}
    assert all(each.n == 120 for each in detector.component_report(parts[:3]).values())
    other = FailureDetector(net, n_components=1).fit([padded(each, 13) for each in parts[:3]])
    other.calibrate([padded(each, 13) for each in parts[3:]])
    torch.testing.assert_close(other(new).p_value, verdict.p_value, rtol=0, atol=0.02)
    detector.save(tmp_path / "d.safetensors")
    assert torch.equal(FailureDetector.load(tmp_path / "d.safetensors", net)(new).score, verdict.score)


def test_labels_by_name_reach_a_score_that_asks_for_them():
    parts = [texts(60, seed) for seed in range(4)]
    score = make_score("class_conditional", labels=True)
    detector = FailureDetector(reader(), score=score)
    assert torch.equal(detector.features(parts).labels, torch.cat([each["labels"] for each in parts]))
    assert torch.equal(labels_of({"label": torch.tensor([1]), "x": torch.zeros(1, 2)}), torch.tensor([1]))
    with pytest.raises(ValueError, match="mappings with labels"):
        labels_of({"x": torch.zeros(1, 2)})


@pytest.mark.parametrize("pooling", ["mean", "maximum", "moments"])
def test_padding_is_not_pooled(pooling):
    batch, net = texts(8, 0), reader()
    extractor = FeatureExtractor(net, ["layers.1", "layers.2[1:]", "layers.2[-1]"], pooling=pooling)
    found = extractor(batch)
    for i in range(8):
        length = int(batch["attention_mask"][i].sum())
        single = {"input_ids": batch["input_ids"][i : i + 1, :length]}
        expected = extractor(single)
        for layer in extractor.layers:
            torch.testing.assert_close(found.layers[layer][i], expected.layers[layer][0])


def test_keys_depend_on_the_content_and_not_on_padding_batch_or_type():
    batch, keys_of = texts(50, 1), InputKeys()
    keys = keys_of(batch)
    assert torch.equal(keys_of(padded(batch, 23)), keys)
    assert torch.equal(keys_of(part(batch, torch.arange(49, -1, -1))).flip(0), keys)
    assert len(keys.unique(dim=0)) == 50
    garbage = batch | {"input_ids": batch["input_ids"] + 7 * (1 - batch["attention_mask"])}
    assert torch.equal(keys_of(garbage), keys)
    assert not torch.equal(keys_of(batch | {"input_ids": batch["input_ids"].flip(1)}), keys)
    image = torch.rand(3, 1, 4, 4)
    assert torch.equal(keys_of({"pixel_values": image}), keys_of(image))
    wider = torch.rand(3, 1, 5, 5)
    assert torch.equal(keys_of(wider), row_keys(wider.flatten(1), 0))
    assert torch.equal(keys_of(image.double()), row_keys(image.flatten(1), 0))


class Two(nn.Module):
    """Takes an image and a row of numbers."""

    def __init__(self):
        super().__init__()
        self.conv, self.mix, self.head = nn.Conv2d(1, 6, 3), nn.Linear(9, 8), nn.Linear(8, N_CLASSES)

    def forward(self, image, row):
        return self.head(self.mix(torch.cat([self.conv(image).relu().mean((2, 3)), row], dim=1)).relu())


class OfMapping(Two):
    """The same, in one mapping."""

    def forward(self, batch):
        return super().forward(batch["image"], batch["row"])


def pairs(n, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 1, 8, 8, generator=generator), torch.randn(n, 3, generator=generator)


def test_several_inputs_in_a_tuple_by_name_or_as_one_mapping_are_the_same():
    torch.manual_seed(0)
    net, same = Two().eval(), OfMapping().eval()
    same.load_state_dict(net.state_dict())
    label = torch.zeros(60).long()
    given = [pairs(60, seed) for seed in range(4)]
    named = [{"image": image, "row": row} for image, row in given]
    verdicts = []
    for classifier, batches, new in (
        (net, [(each, label) for each in given], given[0]),
        (net, [[list(each), label] for each in given], given[0]),
        (net, [each | {"labels": label} for each in named], named[0]),
        (same, named, named[0]),
    ):
        detector = FailureDetector(classifier, n_components=1).fit(batches[:2]).calibrate(batches[2:])
        assert detector.extractor.views == ("identity",)
        assert detector.extractor.layers == ["conv"]
        verdicts.append(detector(new))
        assert len(detector.explain(new)) == 60
    for each in verdicts[1:]:
        torch.testing.assert_close(each.logits, verdicts[0].logits)
    assert torch.equal(verdicts[1].p_value, verdicts[0].p_value)
    assert torch.equal(verdicts[3].p_value, verdicts[2].p_value)


def test_an_image_by_name_is_looked_at_in_several_views():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 6, 3), nn.Linear(6, N_CLASSES)

        def forward(self, pixel_values):
            return self.head(self.conv(pixel_values).relu().mean((2, 3)))

    torch.manual_seed(0)
    net, x = Named(), torch.rand(200, 1, 8, 8)
    named = FailureDetector(net, n_components=1).fit([{"pixel_values": x[:120]}]).calibrate([{"pixel_values": x[120:]}])
    plain = FailureDetector(net, n_components=1).fit([x[:120]]).calibrate([x[120:]])
    assert named.extractor.views == plain.extractor.views == ("identity", "mirror", "blur")
    assert torch.equal(named({"pixel_values": x[:9]}).score, plain(x[:9]).score)


@pytest.mark.parametrize(
    ("batch", "error", "words"),
    [
        (
            {"input_ids": torch.ones(2, 3).long(), "text": ["a", "b"]},
            TypeError,
            "got list for 'text': make it one, or leave it out",
        ),
        ({"labels": torch.zeros(2)}, ValueError, "one row for each of N inputs; got none"),
        ({"input_ids": torch.ones(2, 3), "attention_mask": torch.ones(3, 3)}, ValueError, "one row for each of N"),
        (
            {"input_ids": torch.ones(2, 3).long(), "index": torch.ones(2)},
            ValueError,
            "takes, input_ids, attention_mask",
        ),
    ],
)
def test_inputs_that_a_classifier_cannot_take_are_told(batch, error, words):
    with pytest.raises(error, match=words):
        FeatureExtractor(reader())(batch)


def test_sizes_may_differ_from_batch_to_batch():
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU()) for _ in range(2)]
    net = nn.Sequential(nn.Conv2d(1, 6, 3, 2), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    batches = [torch.rand(60, 1, *size) for size in ((9, 9), (12, 20), (30, 7), (11, 11))]
    detector = FailureDetector(net, n_components=1, views=1).fit(batches[:2]).calibrate(batches[2:])
    assert detector.plan.widths == {"1": 12, "2:input": 12, "2": 12} or len(detector.plan.widths) > 1
    # a map of one pixel has no deviation, and stands in the same place
    found = detector.extractor(torch.rand(4, 1, 3, 3))
    assert all((value[..., 6:] == 0).all() for value in found.layers.values())
    assert torch.isfinite(detector(torch.rand(5, 1, 17, 8)).score).all()


def test_tokens_are_counted_among_those_that_are_there():
    kept = torch.tensor([[True, True, True, False], [False, True, False, True]])
    assert order_among(kept).tolist() == [[0, 1, 2, -1], [-1, 0, -1, 1]]
    assert order_among(kept, from_end=True).tolist() == [[2, 1, 0, -1], [-1, 1, -1, 0]]
    inner = in_slice(order_among(kept), kept.sum(1, keepdim=True), slice(1, None)) & kept
    assert inner.tolist() == [[False, True, True, False], [False, False, False, True]]
    tokens = torch.arange(24.0).reshape(2, 4, 3)
    module = nn.LayerNorm(3)
    last, _ = tokens_at("a[-1]", module, tokens, kept)
    assert torch.equal(last, torch.stack([tokens[0, 2], tokens[1, 3]]))
    only, which = tokens_at("a[1:]", module, tokens[:, :1], None)
    assert not which.any()  # a sequence of one token has no others
    assert only.shape == (2, 3, 1)
    with pytest.raises(ValueError, match=r"expected a sequence \(N, T, C\) for 'a\[0\]'; got \(2, 3\)"):
        tokens_at("a[0]", module, torch.ones(2, 3), None)
