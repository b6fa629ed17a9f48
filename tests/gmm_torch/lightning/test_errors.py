"""What is wrong is said before the first step."""

from functools import partial
from types import SimpleNamespace

import lightning
import pytest
import torch
from lightning.pytorch.strategies import FSDPStrategy
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from gmm_torch import Adapter
from gmm_torch.lightning import FailureDetection
from tests.gmm_torch.lightning.conftest import SMALL, UserData, UserModule, images, loader


class NeverTrained(UserModule):
    def training_step(self, batch, batch_idx):
        raise AssertionError("a step was made")


class WithoutForward(NeverTrained):
    forward = lightning.LightningModule.forward


class WithoutLogits(NeverTrained):
    def __init__(self):
        super().__init__()
        self.net = nn.Conv2d(1, 2, 3)


class ByName(TensorDataset):
    def __getitem__(self, i):
        return dict(zip(("image", "label"), super().__getitem__(i), strict=True))


class Mappings(UserData):
    def train_dataloader(self):
        return DataLoader(ByName(*images(300, 1).tensors), 32)

    def val_dataloader(self):
        return DataLoader(ByName(*images(101, 2).tensors), 32)


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(torch.rand(8, 1, 6, 6), torch.zeros(8, dtype=torch.long))] * 3)


class TrainingAgain(UserData):
    def __init__(self):
        super().__init__()
        self.data = images(300, 1)

    def train_dataloader(self):
        return DataLoader(self.data, 32, shuffle=True)

    def calibration_dataloader(self):
        return DataLoader(Subset(self.data, range(100)), 32)


class WithoutLabels(UserData):
    def val_dataloader(self):
        return DataLoader(TensorDataset(torch.rand(40, 1, 6, 6)), 32)


class GivesNothing(UserData):
    def calibration_dataloader(self):
        return None

    def noise_dataloader(self):
        return images(50, 4)


class SeveralAtOnce(UserData):
    def train_dataloader(self):
        return {"labelled": loader(300, 1), "unlabelled": loader(300, 2)}


@pytest.mark.parametrize(
    ("options", "module", "data", "message"),
    [
        ({"classifier": "network"}, NeverTrained, UserData, "no attribute 'network'"),
        ({"classifier": "lr"}, NeverTrained, UserData, "classifier: expected a network"),
        ({}, WithoutForward, UserData, "WithoutForward to have a forward; .*: name the attribute that gives logits"),
        ({"classifier": "net"}, WithoutLogits, UserData, "the classifier has no linear layer"),
        (
            {"calibration": "held_out"},
            NeverTrained,
            UserData,
            "calibration: expected a loader, or the name.*'held_out'",
        ),
        (
            {"calibration": "train_dataloader"},
            NeverTrained,
            TrainingAgain,
            "300 of them are among those of the fitting",
        ),
        ({"fitting": "val_dataloader"}, NeverTrained, TrainingAgain, "100 of them are among those of the train loader"),
        ({"ood": {"svhn": "svhn_dataloader"}}, NeverTrained, UserData, "ood: expected a loader.*'svhn_dataloader'"),
        (
            {},
            NeverTrained,
            GivesNothing,
            "calibration='calibration_dataloader': expected batches .*; got NoneType: give a",
        ),
        (
            {"calibration": 2, "ood": {"noise": "noise_dataloader"}},
            NeverTrained,
            GivesNothing,
            "ood='noise_dataloader': expected batches; got the data set TensorDataset: give DataLoader",
        ),
        ({}, NeverTrained, WithoutLabels, "got inputs without"),
        ({}, NeverTrained, SeveralAtOnce, "fitting: expected one train loader; got 2 of them"),
        ({"calibration": loader(5, 4)}, NeverTrained, UserData, "alpha=0.05 needs at least 19 inputs; got 5"),
    ],
)
def test_before_the_first_step(trainer, options, module, data, message):
    found = trainer(FailureDetection(**{"detector": SMALL, **options}), num_sanity_val_steps=0)
    with pytest.raises((AttributeError, ValueError, TypeError), match=message):
        found.fit(module(), datamodule=data())


def test_calibration_inputs_that_are_evaluated_are_refused(trainer):
    validation, test = loader(101, 2), loader(99, 3)
    with pytest.raises(ValueError, match="101 of them are among those of the val loader"):
        trainer(FailureDetection(validation, detector=SMALL)).fit(NeverTrained(), loader(300, 1), validation)
    found = trainer(FailureDetection(test, detector=SMALL))
    found.fit(module := UserModule(), loader(300, 1), validation)
    with pytest.raises(ValueError, match="99 of them are among those of the test loader"):
        found.test(module, test, verbose=False)
    stream = DataLoader(Stream(), None)
    with pytest.raises(ValueError, match="to hold out one input in 2; got DataLoader: give a calibration loader"):
        trainer(FailureDetection(2, detector=SMALL)).fit(NeverTrained(), loader(300, 1), stream)


def test_strategies_that_divide_the_weights_are_refused():
    trainer = SimpleNamespace(strategy=object.__new__(FSDPStrategy))
    with pytest.raises(ValueError, match="whole classifier in each process, such as ddp; got FSDPStrategy"):
        FailureDetection().setup(trainer, UserModule(), "fit")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"calibration": 1}, "calibration: expected at least 2; got 1"),
        ({"calibration": None}, "calibration: expected batches .*; got NoneType: give a DataLoader"),
        ({"fitting": images(50, 4)}, "fitting: expected batches; got the data set TensorDataset"),
        ({"every_n_epochs": 0}, "every_n_epochs: expected at least 1; got 0"),
        (
            {"detector": SMALL(UserModule().net)},
            "detector: expected a function .*; got a FailureDetector: give partial",
        ),
        ({"ood": [torch.rand(8, 1, 8, 8)]}, r"ood: expected \{'name': loader"),
    ],
)
def test_wrong_options_are_refused_at_once(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        FailureDetection(**{"calibration": 2, **options})


def test_an_adapter_says_what_of_a_mapping_the_classifier_takes(trainer):
    class OfMappings(UserModule):
        def training_step(self, batch, batch_idx):
            return super().training_step((batch["image"], batch["label"]), batch_idx)

        def validation_step(self, batch, batch_idx):
            pass

    adapter = Adapter(inputs=lambda batch: batch["image"])
    found = trainer(FailureDetection(2, detector=partial(SMALL, adapter=adapter)))
    found.fit(OfMappings(), datamodule=Mappings())
    assert 0 < found.callback_metrics["detection/val/accuracy"] < 1
