"""What the finder of layers takes of thirty and more networks, built with random weights.

The names were written from the networks' code: the ends of the last three stages, and the inputs of the blocks a third
and two thirds of the way through the last two of them. No part of attention, no patch embedding, nothing within a
block may be among them.
"""

from itertools import pairwise

import pytest
import torch
from torch import nn

from gmm_torch import FailureDetector
from gmm_torch.detector import FeatureExtractor
from gmm_torch.features.layers import stage_ends
from gmm_torch.features.places import parse

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")
models = pytest.importorskip("torchvision.models")


def tokens(names, *parts):
    """Of each layer the tokens that the head reads, and the others."""
    return [f"{name}[{part}]" for name in names for part in parts]


def twelve(name):
    """Of twelve blocks of one resolution; three thirds of four."""
    inputs = [f"{name}.{i}:input" for i in (5, 7, 9, 11)]
    return [f"{name}.3", *inputs[:2], f"{name}.7", *inputs[2:], f"{name}.11"]


def six(name):
    """Of six blocks of one resolution."""
    return [f"{name}{i}" for i in ("1", "3:input", "3", "5:input", "5")]


def stages(name, blocks, third, last):
    """Of stages 1 to 3, whose blocks are named `blocks` in them; places within the last two."""
    inner = [[f"{name}{k}{blocks}{i}:input" for i in places] for k, places in ((2, third), (3, last))]
    return [f"{name}1", *inner[0], f"{name}2", *inner[1], f"{name}3"]


def resnet(*, third=(2, 4), last=(1, 2)):
    inner = [[f"layer{k}.{i}:input" for i in places] for k, places in ((3, third), (4, last))]
    return ["layer2", *inner[0], "layer3", *inner[1], "layer4"]


THIN = {"embed_dim": 48, "num_heads": 3}
TIMM = {
    "vit_tiny_patch16_224": ({"img_size": 32}, 32, tokens(twelve("blocks"), "0", "1:")),
    # one head reads the class token, another that of distillation
    "deit_tiny_distilled_patch16_224": ({"img_size": 32}, 32, tokens(twelve("blocks"), ":2", "2:")),
    # pools without any of them
    "vit_small_patch16_dinov3": ({"img_size": 64, **THIN}, 64, tokens(twelve("blocks"), "5:")),
    "vit_small_patch14_reg4_dinov2": ({"img_size": 42, **THIN}, 42, tokens(twelve("blocks"), "0", "5:")),
    "eva02_tiny_patch14_224": ({"img_size": 42, **THIN}, 42, tokens(twelve("blocks"), "1:")),
    "vit_base_patch16_siglip_224": ({"img_size": 32, **THIN}, 32, twelve("blocks")),
    "tnt_s_legacy_patch16_224": (
        {"img_size": 64, "embed_dim": 48, "num_heads_outer": 3},
        64,
        tokens(twelve("blocks"), "0", "1:"),
    ),
    "resmlp_12_224": ({"img_size": 32}, 32, twelve("blocks")),
    "xcit_nano_12_p16_224": ({"img_size": 32}, 32, twelve("blocks")),
    "mixer_s32_224": (
        {"img_size": 64},
        64,
        ["blocks.2", "blocks.4:input", "blocks.4", "blocks.6:input", "blocks.7:input", "blocks.7"],
    ),
    "cait_xxs24_224": (
        {"img_size": 32},
        32,
        [f"blocks.{i}" for i in ("7", "11:input", "13:input", "15", "19:input", "21:input", "23")],
    ),
    "swin_tiny_patch4_window7_224": (
        {"img_size": 64, "window_size": 2, "embed_dim": 24},
        64,
        stages("layers.", ".blocks.", (2, 4), (1,)),
    ),
    "convnext_atto": ({}, 64, stages("stages.", ".blocks.", (2, 4), (1,))),
    "convnextv2_atto": ({}, 64, stages("stages.", ".blocks.", (2, 4), (1,))),
    "poolformer_s12": ({}, 64, stages("stages.", ".blocks.", (2, 4), (1,))),
    "resnetv2_50": ({"channels": (32, 64, 96, 128), "stem_chs": 16}, 64, stages("stages.", ".blocks.", (2, 4), (1, 2))),
    "maxvit_rmlp_pico_rw_256": ({"img_size": 64}, 64, stages("stages.", ".blocks.", (2, 3), (1,))),
    "efficientformer_l1": ({"embed_dims": (16, 24, 32, 48)}, 193, stages("stages.", ".blocks.", (2, 4), ())),
    "pvt_v2_b0": ({}, 64, ["stages.1", "stages.2", "stages.3"]),  # a stage norms what its blocks give
    "resnet26": ({}, 64, resnet(third=(1,), last=(1,))),
    "efficientnet_b0": ({}, 64, ["blocks.2", "blocks.4.1:input", "blocks.4.2:input", "blocks.4", "blocks.6"]),
    "mobilenetv2_035": ({}, 64, ["blocks.2", "blocks.4.1:input", "blocks.4.2:input", "blocks.4", "blocks.6"]),
    "mobilenetv3_small_050": ({}, 64, ["blocks.1", "blocks.3.1:input", "blocks.3", "blocks.5"]),
    "regnetx_002": ({}, 64, ["s2", "s3.b2:input", "s3.b4:input", "s3", "s4.b3:input", "s4.b6:input", "s4"]),
    "inception_v3": ({}, 107, ["Mixed_5d", "Mixed_6e", "Mixed_7c"]),
    "densenet121": ({"growth_rate": 8}, 64, ["features.denseblock2", "features.denseblock3", "features.norm5"]),
    "mobilevit_xxs": ({}, 64, ["stages.2", "stages.3", "final_conv"]),
    "repvgg_a0": ({}, 64, ["stages.1", "stages.2.5:input", "stages.2.9:input", "stages.2", "final_conv"]),
}


def check(net, x, expected, rule):
    extractor = FeatureExtractor(net.eval(), "depths", pooling="moments")
    with torch.no_grad():
        outputs = extractor(x)
        assert extractor.layers == expected
        assert extractor.found_by.startswith(rule)
        said = repr(extractor)
        assert all(name in said for name in (*expected, extractor.found_by))
    assert outputs.own_logits.shape[0] == 2
    assert all(torch.isfinite(value).all() for value in outputs.layers.values())
    return {layer: value.shape[-1] // len(extractor.statistics[layer]) for layer, value in outputs.layers.items()}


@pytest.mark.parametrize("name", TIMM)
def test_of_a_network_of_timm_it_is_what_its_blocks_hand_on(name):
    options, side, expected = TIMM[name]
    torch.manual_seed(0)
    net = timm.create_model(name, pretrained=False, num_classes=5, **options)
    widths = check(net, torch.rand(2, 3, side, side), expected, "declared")
    declared = {each["module"]: each["num_chs"] for each in net.feature_info}
    for layer in stage_ends(expected):  # the channels are the network's, not rows or columns of a map
        assert widths[layer] == declared[parse(layer).module]


def bottleneck(**options):
    return lambda: models.ResNet(models.resnet.Bottleneck, [2, 2, 3, 2], num_classes=5, **options)


def swin():
    return models.SwinTransformer([4, 4], 24, [2, 2, 6, 2], [1, 2, 4, 8], [2, 2], num_classes=5)


def convnext():
    sizes, depths = pairwise((8, 16, 24, 32, None)), (3, 3, 9, 3)
    settings = [models.convnext.CNBlockConfig(*size, depth) for size, depth in zip(sizes, depths, strict=True)]
    return models.ConvNeXt(settings, num_classes=5)


def vgg():
    with torch.device("meta"):  # without the numbers of its 124 million weights in linear layers
        net = models.vgg11_bn(init_weights=False)
    net.features = models.vgg.make_layers(models.vgg.cfgs["A"], batch_norm=True)
    net.classifier = nn.Sequential(nn.Linear(7 * 7 * 512, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 5))
    return net


def vit():
    net = models.VisionTransformer(32, 8, 6, 2, 32, 64, num_classes=5)
    torch.nn.init.normal_(net.heads.head.weight)  # of zeros, it would read nothing
    return net


SWIN = ["3", "5.1:input", "5.4:input", "5", "7.0:input", "7.1:input", "7"]
TORCHVISION = {
    "resnet18": (models.resnet18, 64, resnet(third=(1,), last=(1,))),
    "resnet50": (models.resnet50, 64, resnet()),
    "wide_resnet": (bottleneck(width_per_group=128), 64, resnet(third=(1, 2), last=(1,))),
    "resnext": (bottleneck(groups=8, width_per_group=4), 64, resnet(third=(1, 2), last=(1,))),
    "vit": (vit, 32, tokens(six("encoder.layers.encoder_layer_"), "0", "1:")),
    "swin": (swin, 64, [f"features.{name}" for name in SWIN]),
    "convnext": (
        convnext,
        64,
        [f"features.{name}" for name in ("3", "5.3:input", "5.6:input", "5", "7.1:input", "7.2:input", "7")],
    ),
    "mobilenet_v2": (
        models.mobilenet_v2,
        64,
        [*(f"features.{name}" for name in ("6", "9:input", "12:input", "13", "16:input", "17:input", "18"))],
    ),
    "efficientnet_b0": (
        models.efficientnet_b0,
        64,
        [*(f"features.{name}" for name in ("3", "4.2:input", "5.1:input", "5", "6.2:input", "7.0:input", "8"))],
    ),
    "densenet121": (
        models.densenet121,
        64,
        [f"features.denseblock{name}" for name in ("2", "3:input", "3", "4:input", "4")],
    ),
    "googlenet": (
        lambda: models.googlenet(aux_logits=False, init_weights=False),
        64,
        [f"inception{name}" for name in ("3b", "4c:input", "4d:input", "4e", "5b:input", "5b")],
    ),
    "regnet_y_400mf": (
        models.regnet_y_400mf,
        64,
        [
            *(f"trunk_output.block{name}" for name in ("2", "3.block3-2:input", "3.block3-4:input", "3")),
            *("trunk_output.block4.block4-2:input", "trunk_output.block4.block4-4:input", "trunk_output.block4"),
        ],
    ),
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_of_a_network_of_torchvision_it_is_what_its_blocks_hand_on(name):
    make, side, expected = TORCHVISION[name]
    torch.manual_seed(0)
    check(make(), torch.rand(2, 3, side, side), expected, "the ends of runs")


END = 49  # the token that ends a text


class Signal(nn.Module):
    """M5 (Dai et al. 2017, "Very deep convolutional neural networks for raw waveforms"), thinner."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1, self.pool1 = nn.Conv1d(1, 8, 80, 16), nn.BatchNorm1d(8), nn.MaxPool1d(4)
        self.conv2, self.bn2, self.pool2 = nn.Conv1d(8, 8, 3), nn.BatchNorm1d(8), nn.MaxPool1d(4)
        self.conv3, self.bn3, self.pool3 = nn.Conv1d(8, 16, 3), nn.BatchNorm1d(16), nn.MaxPool1d(4)
        self.fc1 = nn.Linear(16, 5)

    def forward(self, x):
        x = self.pool1(self.bn1(self.conv1(x)).relu())
        x = self.pool2(self.bn2(self.conv2(x)).relu())
        x = self.pool3(self.bn3(self.conv3(x)).relu())
        return self.fc1(x.mean(2))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(12), nn.Linear(12, 12)

    def forward(self, x):
        return x + self.linear(self.norm(x)).relu()


class Table(nn.Module):
    """A residual network over rows (Gorishniy et al. 2021)."""

    def __init__(self):
        super().__init__()
        self.first, self.blocks = nn.Linear(7, 12), nn.Sequential(*(Residual() for _ in range(4)))
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        return self.head(self.blocks(self.first(x)))


def perceptron():
    sizes = (7, 12, 12, 12, 5)
    layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


class PaddedConv(nn.Conv2d):
    """A convolution with a module for its padding, as ports from other frameworks have it."""

    def __init__(self, *args):
        super().__init__(*args)
        self.padded = nn.Identity()

    def forward(self, x):
        return super().forward(self.padded(x))


class Block(nn.Module):
    def __init__(self, n_in, n_out, stride):
        super().__init__()
        self.expand, self.reduce = PaddedConv(n_in, 2 * n_in, 1), PaddedConv(2 * n_in, n_out, 3, stride, 1)

    def forward(self, x):
        return self.reduce(self.expand(x).relu())


class Padded(nn.Module):
    """Convolutions before and after the blocks are no blocks, and the padding of the next block ends no stage."""

    def __init__(self):
        super().__init__()
        self.stem, self.top, self.head = PaddedConv(3, 4, 3, 1, 1), PaddedConv(16, 20, 1), nn.Linear(20, 5)
        sizes = ((4, 8, 2), (8, 8, 1), (8, 12, 2), (12, 12, 1), (12, 16, 2), (16, 16, 1))
        self.blocks = nn.ModuleList(Block(*each) for each in sizes)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.top(x).mean((2, 3)))


PLAIN = ["13", "16:input", "19:input", "20", "23:input", "26:input", "27"]
OTHERS = {
    # convolutions alone: the last before each pooling; what comes after the last pooling is the same again
    "vgg11_bn": (
        vgg,
        (3, 64, 64),
        [f"features.{each}" for each in PLAIN],
        "the last at each resolution",
    ),
    "padded": (
        Padded,
        (3, 32, 32),
        ["blocks.1", "blocks.3:input", "blocks.3", "blocks.5:input", "blocks.5"],
        "the ends of runs of like blocks",
    ),
    # volumes (N, C, D, H, W)
    "r3d_18": (models.video.r3d_18, (3, 8, 32, 32), resnet(third=(1,), last=(1,)), "the ends of runs"),
    # signals (N, C, L): a convolution, its norm, at each resolution
    "signal": (Signal, (1, 8000), ["bn1", "bn2:input", "bn2", "bn3:input", "bn3"], "the last at each resolution"),
    # rows have no positions
    "table": (Table, (7,), ["blocks.0", "blocks.2", "blocks.3"], "what its layers of rows hand on"),
    "perceptron": (perceptron, (7,), ["2:input", "4:input", "6:input"], "what its layers of rows hand on"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_of_networks_of_volumes_signals_and_rows(name):
    make, shape, expected, rule = OTHERS[name]
    torch.manual_seed(0)
    check(make(), torch.randn(2, *shape), expected, rule)


SMALL = {"hidden_size": 16, "num_hidden_layers": 6, "num_attention_heads": 2, "intermediate_size": 32}
TEXT = {**SMALL, "vocab_size": 50, "pad_token_id": 0, "num_labels": 5}
IMAGE = {**SMALL, "image_size": 32, "patch_size": 8, "num_labels": 5}
TRANSFORMERS = {
    "Bert": ("SequenceClassification", TEXT, tokens(six("bert.encoder.layer."), "0", "1:")),
    "Roberta": (
        "SequenceClassification",
        {**TEXT, "pad_token_id": 1},
        tokens(six("roberta.encoder.layer."), "0", "1:"),
    ),
    # one layer that runs six times
    "Albert": (
        "SequenceClassification",
        {**TEXT, "embedding_size": 8},
        tokens(
            [
                f"albert.encoder.albert_layer_groups.0.albert_layers.0@{i}"
                for i in ("2", "4:input", "4", "6:input", "6")
            ],
            "0",
            "1:",
        ),
    ),
    "Bart": (
        "SequenceClassification",
        {
            "vocab_size": 50,
            "d_model": 16,
            "max_position_embeddings": 16,
            "num_labels": 5,
            "eos_token_id": END,
            "encoder_layers": 3,
            "decoder_layers": 3,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 32,
            "decoder_ffn_dim": 32,
            "pad_token_id": 0,
            "bos_token_id": 1,
        },
        # six blocks in a row; the head reads the token of the end
        tokens(
            ["model.encoder.layers.1", *(f"model.decoder.layers.{i}" for i in ("0:input", "0", "2:input", "2"))],
            "-1",
            ":-1",
        ),
    ),
    "Electra": ("SequenceClassification", TEXT, tokens(six("electra.encoder.layer."), "0", "1:")),
    "DistilBert": (
        "SequenceClassification",
        {"vocab_size": 50, "dim": 16, "n_layers": 6, "n_heads": 2, "hidden_dim": 32, "num_labels": 5},
        tokens(six("distilbert.transformer.layer."), "0", "1:"),
    ),
    "GPT2": (
        "SequenceClassification",
        {"vocab_size": 50, "n_embd": 16, "n_layer": 6, "n_head": 2, "pad_token_id": 0, "num_labels": 5},
        tokens(six("transformer.h."), "-1", ":-1"),
    ),
    "Llama": ("SequenceClassification", {**TEXT, "num_key_value_heads": 2}, tokens(six("model.layers."), "-1", ":-1")),
    "ViT": ("ImageClassification", IMAGE, tokens(six("vit.layers."), "0", "1:")),
    "DeiT": ("ImageClassification", IMAGE, tokens(six("deit.layers."), "0", "2:")),  # the second token is not read
    # the head reads the class token and the mean of the others, and passes over four registers
    "Dinov2": ("ImageClassification", IMAGE, tokens(six("dinov2.encoder.layer."), "0", "1:")),
    "Dinov2WithRegisters": (
        "ImageClassification",
        IMAGE,
        tokens(six("dinov2_with_registers.encoder.layer."), "0", "5:"),
    ),
    "Segformer": (
        "ImageClassification",
        {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 3, 2], "num_attention_heads": [1, 2, 2, 2]},
        ["segformer.stages.1", "segformer.stages.2", "segformer.stages.3"],  # a stage norms what its blocks give
    ),
    "Wav2Vec2": (
        "SequenceClassification",
        {
            **SMALL,
            "num_labels": 5,
            "conv_dim": [8] * 7,
            "num_conv_pos_embeddings": 16,
            "classifier_proj_size": 8,
            "num_conv_pos_embedding_groups": 2,
        },
        six("wav2vec2.encoder.layers."),
    ),
    "AST": (
        "AudioClassification",
        {**SMALL, "num_labels": 5, "max_length": 64, "num_mel_bins": 32},
        tokens(six("audio_spectrogram_transformer.layers."), ":2", "2:"),  # the head reads the mean of two tokens
    ),
    "VideoMAE": (
        "VideoClassification",
        {**IMAGE, "num_frames": 4},
        six("videomae.encoder.layer."),
    ),
    "Swin": (
        "ImageClassification",
        {"image_size": 64, "embed_dim": 8, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 2, 2], "window_size": 2},
        # a stage ends with the merging of patches, so that the last two have the same resolution
        [f"swin.encoder.layers.{i}" for i in ("0", "1", "3:input", "3")],
    ),
    "ConvNext": (
        "ImageClassification",
        {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 3, 2], "num_labels": 5},
        stages("convnext.encoder.stages.", ".layers.", (1, 2), (1,)),
    ),
    "ResNet": (
        "ImageClassification",
        {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 3, 2], "num_labels": 5},
        stages("resnet.encoder.stages.", ".layers.", (1, 2), (1,)),
    ),
}


def example(name, task, options):
    """Two inputs; texts are of different lengths, padded, with a mask and the labels of a data collator."""
    side = options.get("image_size", 64)
    shapes = {"Wav2Vec2": (6000,), "AST": (64, 32), "VideoMAE": (4, 3, side, side)}
    if name in shapes or task == "ImageClassification":
        return torch.rand(2, *shapes.get(name, (3, side, side)))
    ids = torch.randint(2, 49, (2, 7))
    mask = torch.arange(7) < torch.tensor([[4], [7]])
    ids[torch.arange(2), mask.sum(1) - 1] = END
    pad = options.get("pad_token_id", 0)
    return {"input_ids": ids.where(mask, pad), "attention_mask": mask.long(), "labels": torch.zeros(2).long()}


# where a version of transformers declares none, blocks are found as others are
DECLARED = ("declared by the network as its hidden states", "the ends of runs")


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_of_a_network_of_transformers_it_is_what_its_layers_hand_on(name):
    task, options, expected = TRANSFORMERS[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**options)
    net = getattr(transformers, f"{name}For{task}")(config)
    check(net, example(name, task, options), expected, DECLARED)


def test_a_detector_of_a_network_whose_activation_runs_at_two_resolutions_is_fitted_and_read_again(tmp_path):
    torch.manual_seed(0)
    net = bottleneck(width_per_group=8)().eval()
    x = torch.rand(60, 3, 32, 32)
    detector = FailureDetector(net, n_components=1, views=1).fit(x[:30].split(15)).calibrate(x[30:].split(15))
    detector.save(tmp_path / "d.safetensors")
    loaded = FailureDetector.load(tmp_path / "d.safetensors", net)
    # the maps of layer4 are of one pixel here
    expected = ["layer1", "layer2.1:input", "layer2", "layer3.1:input", "layer3.2:input", "layer3"]
    assert loaded.extractor.layers == detector.extractor.layers == expected
    assert torch.equal(loaded(x[:5]).p_value, detector(x[:5]).p_value)
