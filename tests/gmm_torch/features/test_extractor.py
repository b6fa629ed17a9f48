import threading

import pytest
import torch
from torch import Tensor, nn

from gmm_torch import FailureDetector
from gmm_torch.detector import FeatureExtractor
from gmm_torch.features.adapter import Adapter
from gmm_torch.features.augmentations import VIEWS
from gmm_torch.features.places import channels_axis, channels_first, pool, statistics
from tests.gmm_torch.conftest import images


class Mean(nn.Module):
    """The mean over places."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(2)


def test_the_penultimate_layer_is_the_input_of_the_last_linear_layer_that_runs(net):
    outputs = FeatureExtractor(net)(images(4, 0))
    assert list(outputs.layers) == ["head:input"]
    net.eval()
    expected = net.norm(net.conv(images(4, 0))).relu().mean((2, 3))
    torch.testing.assert_close(outputs.layers["head:input"][:, 0], expected)
    torch.testing.assert_close(outputs.own_logits, net(images(4, 0)))


@pytest.mark.parametrize(("conv", "shape"), [(nn.Conv2d, (4, 1, 8, 8)), (nn.Conv1d, (4, 1, 8))])
def test_a_head_that_is_a_convolution_has_penultimate_features_too(conv, shape):
    net = nn.Sequential(conv(1, 5, 3), nn.ReLU(), conv(5, 3, 1), nn.Flatten(2)).append(Mean())
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    found = FeatureExtractor(net)(x).layers
    assert list(found) == ["2:input"]
    torch.testing.assert_close(found["2:input"][:, 0], net[:2](x).flatten(2).mean(2))


def test_convolutional_maps_are_pooled_over_space(net):
    outputs = FeatureExtractor(net, ["conv", "head"])(images(4, 0))
    torch.testing.assert_close(outputs.layers["conv"][:, 0], net.conv(images(4, 0)).mean((2, 3)))
    assert outputs.layers["head"].shape == (4, 1, 3)


def test_sequences_are_pooled_over_positions():
    tokens = torch.randn(2, 5, 7)
    net = nn.Sequential(nn.LayerNorm(7), nn.Flatten(), nn.Linear(35, 3))
    found = FeatureExtractor(net, ["0"])(tokens).layers["0"]
    torch.testing.assert_close(found[:, 0], net[0](tokens).mean(1))


@pytest.mark.parametrize(
    ("module", "shape", "channels"),
    [
        (nn.BatchNorm2d(5), (2, 5, 4, 4), 1),
        (nn.LayerNorm(5), (2, 4, 4, 5), 3),
        (nn.LayerNorm(5), (2, 4, 6, 5), 3),
        (nn.Conv2d(3, 5, 1), (2, 5, 6, 4), 1),
        (nn.ReLU(), (2, 5, 4, 4), 1),
        (nn.ReLU(), (2, 4, 4, 5), 3),
        (nn.LayerNorm(5), (2, 4, 5), 2),
        (nn.ReLU(), (2, 4, 5), 2),
        (nn.Conv1d(3, 5, 1), (2, 5, 9), 1),
        (nn.BatchNorm3d(5), (2, 5, 3, 4, 4), 1),
        (nn.ReLU(), (2, 5, 3, 4, 4), 1),
        (nn.ReLU(), (2, 5), 1),
    ],
)
def test_the_channels_are_found_wherever_they_are(module, shape, channels):
    value = torch.randn(shape)
    assert channels_axis(module, value) == channels
    positions = tuple(axis for axis in range(1, len(shape)) if axis != channels)
    expected = value.mean(positions) if positions else value
    torch.testing.assert_close(pool(channels_first(module, value), ["mean"]), expected)


def test_the_classifier_runs_in_evaluation_mode_and_gets_its_modes_back(net):
    net.train()
    net.norm.eval()
    extractor = FeatureExtractor(net)
    extractor.train()
    before = net.norm.running_mean.clone()
    first, second = extractor(images(8, 0)), extractor(images(8, 0))
    torch.testing.assert_close(first.logits, second.logits, rtol=0, atol=0)
    torch.testing.assert_close(net.norm.running_mean, before, rtol=0, atol=0)
    assert net.training
    assert net.dropout.training
    assert not net.norm.training


def test_no_hook_outlives_the_forward_pass(net):
    extractor = FeatureExtractor(net, ["conv"])
    extractor(images(2, 0))
    assert all(not module._forward_hooks for module in net.modules())


def test_a_wrong_name_lists_the_names_there_are_and_the_closest(net):
    with pytest.raises(
        ValueError, match=r"no layer 'haed' \(did you mean 'head'\?\); it has: conv, norm, dropout, head"
    ):
        FeatureExtractor(net, ["haed"])


def test_a_string_is_not_taken_for_a_list_of_names(net):
    with pytest.raises(ValueError, match="expected a list of names"):
        FeatureExtractor(net, "head")


def test_a_classifier_without_a_linear_layer_asks_for_names():
    with pytest.raises(ValueError, match="no linear layer"):
        FeatureExtractor(nn.Sequential(nn.Conv2d(1, 3, 6), nn.Flatten()))(images(2, 0))


def test_logits_of_another_rank_are_refused():
    with pytest.raises(ValueError, match=r"expected logits of shape \(N, C\), .*got \(2, 3, 4, 4\)"):
        FeatureExtractor(nn.Sequential(nn.Conv2d(1, 3, 3)), ["0"])(images(2, 0))


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_a_single_logit_is_refused_with_the_way_to_make_two_of_it(shape):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(5, 1)

        def forward(self, x):
            return self.linear(x).reshape(-1, *shape[1:])

    class Two(Net):
        def forward(self, x):
            z = super().forward(x).reshape(-1)
            return torch.stack([torch.zeros_like(z), z], dim=-1)

    x = torch.randn(4, 5)
    with pytest.raises(ValueError, match=r"C >= 2; got \(4.*torch.stack\(\[torch.zeros_like\(z\), z\], dim=-1\)"):
        FeatureExtractor(Net())(x)
    with pytest.raises(ValueError, match="C >= 2"):
        FailureDetector(Net()).fit([x])
    net = Two()
    expected = torch.sigmoid(net.linear(x))[:, 0]
    torch.testing.assert_close(FeatureExtractor(net)(x).own_logits.softmax(-1)[:, 1], expected)


class Folding(nn.Module):
    """Takes windows for inputs, and two maps through one ReLU."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.relu, self.within, self.head = nn.ReLU(), nn.Linear(16, 16), nn.Linear(4, 3)

    def forward(self, x):
        x = self.relu(self.first(x))
        x = self.relu(self.second(nn.functional.avg_pool2d(x, 2)))
        windows = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(0, 2)
        x = x + self.within(windows.flatten(1)).mean() + self.within.weight.mean()
        return {"loss": None, "logits": self.head(x.mean((2, 3)))}


def test_neither_windows_nor_a_module_that_runs_twice_is_found_or_taken():
    net, x = Folding(), torch.rand(2, 1, 8, 8)
    outputs = FeatureExtractor(net, "depths")(x)
    assert list(outputs.layers) == ["first", "second"]
    torch.testing.assert_close(outputs.own_logits, net(x)["logits"])
    with pytest.raises(ValueError, match=r"'within': expected one row for each of 2 inputs; got shape \(8, 16\)"):
        FeatureExtractor(net, ["within"])(x)


def test_logits_that_are_not_of_the_batch_are_refused():
    with pytest.raises(ValueError, match=r"classifier: expected one row for each of 2 inputs; got shape \(8, 3\)"):
        FeatureExtractor(nn.Sequential(nn.Flatten(0, 1), nn.Linear(4, 3)), ["1"])(torch.rand(2, 4, 4))


def test_a_layer_without_numbers_is_named(net):
    text = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 3))
    with pytest.raises(ValueError, match=r"'0:input' gives no numbers of shape .*, but \(2, 3\) of torch.int64"):
        FeatureExtractor(text, ["0:input"])(torch.ones(2, 3, dtype=torch.long))


def test_a_layer_that_does_not_run_is_named(net):
    net.spare = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="spare did not run"):
        FeatureExtractor(net, ["spare"])(images(2, 0))


def test_moments_are_mean_and_deviation_over_positions():
    maps = torch.randn(3, 4, 5, 6)
    expected = torch.cat([maps.mean((2, 3)), maps.flatten(2).std(2, correction=0)], dim=1)
    names = statistics("moments", maps)
    torch.testing.assert_close(pool(maps, names), expected)
    torch.testing.assert_close(pool(maps[:, :, 0, 0], statistics("moments", maps[:, :, 0, 0])), maps[:, :, 0, 0])


def test_moments_of_a_constant_map_have_a_finite_gradient():
    maps = torch.ones(1, 2, 3, 3, requires_grad=True)
    pool(maps, ["mean", "deviation"]).sum().backward()
    assert torch.isfinite(maps.grad).all()


def test_each_view_gives_the_outputs_of_the_transformed_image(net):
    x = images(5, 0)
    outputs = FeatureExtractor(net, ["conv"], views=("identity", "mirror", "blur", "shift"))(x)
    assert outputs.logits.shape == (5, 4, 3)
    for i, view in enumerate(VIEWS.values()):
        alone = FeatureExtractor(net, ["conv"])(view(x))
        torch.testing.assert_close(outputs.logits[:, i], alone.own_logits)
        torch.testing.assert_close(outputs.layers["conv"][:, i], alone.layers["conv"][:, 0])


@pytest.mark.parametrize("view", VIEWS.values())
def test_views_keep_shape_and_range_and_pass_gradients(view):
    x = images(2, 0).requires_grad_()
    seen = view(x)
    assert seen.shape == x.shape
    assert seen.min() >= 0
    assert seen.max() <= 1
    seen.sum().backward()
    assert (x.grad != 0).any()


def test_stages_are_the_last_layers_at_the_last_three_resolutions():
    stem, last = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
    body = [stem, nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(2, 2, 1), nn.MaxPool2d(2), last, nn.ReLU()]
    net = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))
    outputs = FeatureExtractor(net, "stages")(torch.rand(2, 1, 16, 16))
    assert list(outputs.layers) == ["1", "3", "6"]


def test_stages_of_a_network_without_maps_are_the_penultimate_layer():
    outputs = FeatureExtractor(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)), "stages")(torch.rand(2, 4))
    assert list(outputs.layers) == ["2:input"]


def test_views_of_what_is_no_image_are_refused():
    with pytest.raises(ValueError, match=r"expected images \(N, C, H, W\)"):
        FeatureExtractor(nn.Linear(4, 3), views=("identity", "mirror"))(torch.rand(2, 4))


@pytest.mark.parametrize("views", [(), ("mirror",), ("identity", "identity"), ("identity", "upside_down")])
def test_wrong_views_are_refused(net, views):
    with pytest.raises(ValueError, match="views: expected"):
        FeatureExtractor(net, views=views)


def test_no_images_give_no_rows(net):
    outputs = FeatureExtractor(net, ["conv"], views=("identity", "mirror"))(images(0, 0))
    assert outputs.logits.shape == (0, 2, 3)
    assert outputs.layers["conv"].shape == (0, 2, 6)


def test_what_another_thread_runs_meanwhile_is_not_taken_for_the_batch(net):
    x, other = images(4, 0), images(4, 1)
    expected = FeatureExtractor(net, ["norm"])(x).layers["norm"]
    extractor = FeatureExtractor(net, ["norm"])
    extractor(x)

    def run_elsewhere(module, args):
        if threading.current_thread() is threading.main_thread():
            thread = threading.Thread(target=net, args=(other,))
            thread.start()
            thread.join()

    with net.head.register_forward_pre_hook(run_elsewhere):  # once the layer has run
        assert torch.equal(extractor(x).layers["norm"], expected)


@pytest.mark.parametrize("rule", ["penultimate", "stages", "depths"])
def test_what_another_thread_runs_meanwhile_neither_moves_the_layers_nor_is_changed_by_the_adapter(net, rule):
    x = images(4, 0)
    expected, found = net.eval()(x), FeatureExtractor(net, rule)
    found(x)
    extractor, elsewhere = FeatureExtractor(net, rule, adapter=Adapter(logits=lambda output: 2 * output)), []

    def run_elsewhere(module, args):
        if threading.current_thread() is threading.main_thread():
            thread = threading.Thread(target=lambda: elsewhere.append(net(x)))
            thread.start()
            thread.join()

    with net.head.register_forward_pre_hook(run_elsewhere):
        torch.testing.assert_close(extractor(x).logits[:, 0], 2 * expected)
    assert extractor.layers == found.layers
    for each in elsewhere:
        torch.testing.assert_close(each, expected)
