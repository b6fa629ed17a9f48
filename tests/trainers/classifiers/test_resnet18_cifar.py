import torch

from trainers.classifiers.resnet18_cifar import resnet18_cifar


def test_the_map_before_pooling_is_an_eighth_of_the_image():
    network = resnet18_cifar(10).eval()
    shapes = []
    network.layer4.register_forward_hook(lambda module, args, output: shapes.append(tuple(output.shape)))
    with torch.no_grad():
        assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert shapes == [(2, 512, 4, 4)]


def test_it_has_the_parameters_of_the_usual_one():
    assert sum(p.numel() for p in resnet18_cifar(10).parameters()) == 11_173_962
    assert resnet18_cifar(7, in_channels=1).conv1.weight.shape == (64, 1, 3, 3)
