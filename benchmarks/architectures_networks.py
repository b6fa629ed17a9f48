"""The networks of `architectures.py`: built from timm, torchvision and transformers with small arguments.

All of them take images in [0, 1] (text: token numbers; tables: standardised columns) and hold their normalisation.
They are narrow, so that one core trains each in minutes; their classes and their layers are those that people use.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from timm.layers import BatchNormAct2d, create_conv2d
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.convnext import ConvNeXt
from timm.models.efficientnet import EfficientNet
from timm.models.mlp_mixer import MlpMixer
from timm.models.resnet import Bottleneck, ResNet
from timm.models.resnetv2 import ResNetV2
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_hybrid import ConvStem, HybridEmbed
from torch import Tensor, nn
from torchvision.models.densenet import DenseNet
from torchvision.models.vgg import VGG, make_layers
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from gmm_torch.features.normalized import Normalize
from trainers.classifiers.resnet_cifar import ResNetCifar

CIFAR, FASHION, TEXT, DIGITS = "cifar10", "fashion_mnist", "text", "digits"
N_CLASSES = 10
PIXELS = {
    CIFAR: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    FASHION: ((0.286,), (0.353,)),
}
# Classes and columns of the table; see `architectures_data.py`.
N_DIGITS, N_COLUMNS = 8, 16
# Text: words of the vocabulary and words of a description; 0 fills up, 1 begins, 2 stands for unknown words.
N_WORDS, N_TOKENS = 8000, 64


def vit() -> nn.Module:
    """With a class token, which the head reads, and 64 tokens from a stem of two convolutions (Xiao et al. 2021)."""
    stem = ConvStem(depth=2, channels=(32, 64), stride=(2, 2))
    return VisionTransformer(
        img_size=32,
        patch_size=1,
        num_classes=N_CLASSES,
        embed_dim=64,
        depth=5,
        num_heads=2,
        mlp_ratio=2,
        embed_layer=partial(HybridEmbed, stem, proj=False),
    )


def convnext() -> nn.Module:
    """Patches of 2 x 2 pixels."""
    return ConvNeXt(
        num_classes=N_CLASSES, depths=(1, 2, 3, 1), dims=(32, 64, 128, 192), patch_size=2, ls_init_value=1.0
    )


def vgg() -> nn.Module:
    """With batch norm, seven convolutions, a hidden layer before the last one."""
    net = VGG(make_layers([16, "M", 32, 32, "M", 64, 64, "M", 128, 128, "M"], batch_norm=True), num_classes=N_CLASSES)
    net.avgpool = nn.AdaptiveAvgPool2d(1)
    net.classifier = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, N_CLASSES))
    return net


def swin() -> nn.Module:
    """Patches of 2 x 2 pixels, windows of 4 x 4, three stages."""
    return SwinTransformer(
        img_size=32,
        patch_size=2,
        num_classes=N_CLASSES,
        embed_dim=24,
        depths=(2, 2, 2),
        num_heads=(2, 3, 6),
        window_size=4,
        mlp_ratio=2,
        drop_path_rate=0.0,
    )


def efficientnet() -> nn.Module:
    """Blocks like those of EfficientNet-B0, fewer and narrower; the stem without its stride."""
    blocks = [
        ["ds_r1_k3_s2_e1_c16_se0.25"],
        ["ir_r2_k3_s1_e3_c16_se0.25"],
        ["ir_r3_k5_s2_e4_c32_se0.25"],
        ["ir_r3_k3_s2_e4_c64_se0.25"],
        ["ir_r1_k3_s1_e4_c96_se0.25"],
    ]
    net = EfficientNet(decode_arch_def(blocks), num_classes=N_CLASSES, stem_size=8, num_features=160, act_layer=nn.SiLU)
    net.conv_stem.stride = (1, 1)
    return net


def densenet() -> nn.Module:
    """Growth 10, three dense blocks, a stem of a 3 x 3 convolution and one pooling."""
    net = DenseNet(growth_rate=10, block_config=(4, 6, 8), num_init_features=16, num_classes=N_CLASSES)
    net.features.conv0 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
    return net


def wide_resnet() -> nn.Module:
    """Like the wide residual network 10-2 (Zagoruyko and Komodakis 2016), three quarters as wide: norms come first."""
    net = ResNetV2(
        layers=[1, 1, 1],
        channels=(24, 48, 96),
        num_classes=N_CLASSES,
        stem_chs=16,
        basic=True,
        bottle_ratio=1.0,
        norm_layer=partial(BatchNormAct2d, eps=1e-5),
        conv_layer=create_conv2d,
    )
    net.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
    return net


def mixer(image: int, channels: int, width: int, depth: int) -> nn.Module:
    """Patches of 4 x 4 pixels."""
    return MlpMixer(
        num_classes=N_CLASSES,
        img_size=image,
        in_chans=channels,
        patch_size=4,
        num_blocks=depth,
        embed_dim=width,
        mlp_ratio=(1.0, 2.0),
    )


def bottleneck() -> nn.Module:
    """Bottleneck residual network."""
    net = ResNet(Bottleneck, [1, 2, 2, 1], num_classes=N_CLASSES, channels=(8, 16, 32, 64), stem_width=16)
    net.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    net.maxpool = nn.Identity()
    return net


def vit_fashion() -> nn.Module:
    """Without a class token: the head reads the mean of the tokens."""
    return VisionTransformer(
        img_size=28,
        patch_size=4,
        in_chans=1,
        num_classes=N_CLASSES,
        embed_dim=48,
        depth=6,
        num_heads=3,
        mlp_ratio=2,
        class_token=False,
        global_pool="avg",
    )


class TextClassifier(nn.Module):
    """A transformers model that takes token numbers and finds its mask by itself."""

    def __init__(self) -> None:
        super().__init__()
        config = DistilBertConfig(
            vocab_size=N_WORDS,
            max_position_embeddings=N_TOKENS,
            n_layers=4,
            n_heads=4,
            dim=96,
            hidden_dim=192,
            num_labels=N_CLASSES,
            pad_token_id=0,
        )
        self.model = DistilBertForSequenceClassification(config)

    def forward(self, tokens: Tensor) -> Tensor:
        """Token numbers (N, T) to logits (N, C)."""
        return self.model(input_ids=tokens, attention_mask=(tokens != 0).long()).logits


def mlp() -> nn.Module:
    """For 16 columns."""
    layers: list[nn.Module] = []
    for width in (N_COLUMNS, 96, 96):
        layers += [nn.Sequential(nn.Linear(width, 96), nn.BatchNorm1d(96), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(96, N_DIGITS))


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: AdamW, one cycle of the learning rate, no label smoothing.

    Attributes:
        build: the network, without normalisation.
        data: name of what it classifies.
        epochs, batch, lr, decay: of training.
        kind: of the network, in the page.
        given: file of weights that are given, not trained; the network then may have had part in choices.
        chosen_on: whether the detector's settings were chosen on it.
    """

    build: Callable[[], nn.Module]
    data: str
    kind: str
    epochs: int = 10
    batch: int = 128
    lr: float = 2e-3
    decay: float = 0.05
    given: str = ""
    chosen_on: bool = False


RECIPES: Mapping[str, Recipe] = {
    "resnet20": Recipe(
        lambda: ResNetCifar(20, N_CLASSES),
        CIFAR,
        "residual, ResNet-20",
        given="resnet20-cifar10-jpeg.safetensors",
        chosen_on=True,
    ),
    "vit_fashion": Recipe(
        vit_fashion,
        FASHION,
        "vision transformer without class token",
        given="vit-fashion.safetensors",
        chosen_on=True,
    ),
    "bottleneck": Recipe(bottleneck, CIFAR, "bottleneck residual", given="bottleneck-cifar10-jpeg.safetensors"),
    "vit": Recipe(vit, CIFAR, "vision transformer with class token", epochs=13, batch=64, lr=3e-3),
    "convnext": Recipe(convnext, CIFAR, "ConvNeXt", epochs=10, batch=64, lr=5e-3),
    "vgg": Recipe(vgg, CIFAR, "VGG with batch norm", epochs=8),
    "swin": Recipe(swin, CIFAR, "Swin transformer", epochs=8, batch=64, lr=3e-3),
    "efficientnet": Recipe(efficientnet, CIFAR, "EfficientNet", epochs=8, lr=4e-3),
    "densenet": Recipe(densenet, CIFAR, "DenseNet", epochs=8, lr=4e-3),
    "wide_resnet": Recipe(wide_resnet, CIFAR, "wide residual", epochs=8),
    "mixer": Recipe(partial(mixer, 32, 3, 64, 6), CIFAR, "MLP-Mixer", epochs=8, batch=64, lr=3e-3),
    "mixer_fashion": Recipe(partial(mixer, 28, 1, 48, 4), FASHION, "MLP-Mixer", epochs=6),
    "text": Recipe(TextClassifier, TEXT, "DistilBERT, from scratch", epochs=5, batch=64, lr=1e-3),
    "mlp": Recipe(mlp, DIGITS, "MLP on 16 columns", epochs=60, batch=32, lr=2e-3),
}


def build(name: str) -> nn.Module:
    """The classifier of a recipe with random weights from a fixed seed, in evaluation mode."""
    recipe = RECIPES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = recipe.build()
    if recipe.data in PIXELS:
        net = nn.Sequential(Normalize(*PIXELS[recipe.data]), net)
    return net.eval()
