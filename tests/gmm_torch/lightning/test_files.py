"""Detectors beside checkpoints and within them: that of the weights at hand, whatever was trained since."""

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from gmm_torch import FailureDetector
from gmm_torch.lightning import FailureDetection
from tests.gmm_torch.lightning.conftest import SMALL, UserData, UserModule, images, loader

X = images(20, 5).tensors[0]


def fits_nothing(net):
    raise AssertionError("a detector was at hand")


def detection(**options):
    return FailureDetection(classifier="net", **{"detector": SMALL, **options})


def test_a_detector_stands_beside_the_checkpoint_and_another_run_finds_it(trainer, tmp_path):
    found = trainer(callback := detection(), enable_checkpointing=True, logger=CSVLogger(tmp_path))
    found.fit(module := UserModule(), datamodule=UserData())
    path = found.checkpoint_callback.best_model_path
    loaded = FailureDetector.load(path.replace(".ckpt", ".detector.safetensors"), module.net)
    torch.testing.assert_close(loaded(X).p_value, callback.detector(X).p_value, rtol=0, atol=0)
    (first,) = found.test(module, datamodule=UserData(), verbose=False)
    callback = detection(detector=fits_nothing)
    (second,) = trainer(callback).test(UserModule(), datamodule=UserData(), ckpt_path=path, verbose=False)
    assert second == first
    torch.testing.assert_close(loaded(X).p_value, callback.detector(X).p_value, rtol=0, atol=0)


def test_without_checkpoints_it_is_in_the_trainers_folder(trainer, tmp_path):
    trainer(callback := detection()).fit(module := UserModule(), datamodule=UserData())
    loaded = FailureDetector.load(tmp_path / "detector.safetensors", module.net)
    assert torch.equal(loaded(X).p_value, callback.detector(X).p_value)


def test_every_few_epochs_each_kept_checkpoint_has_its_own(trainer, tmp_path):
    """The numbers are there to choose checkpoints by; what a checkpoint that went had beside it goes as well."""
    keep = ModelCheckpoint(tmp_path / "kept", "{epoch}", monitor="detection/val/noise/auroc", mode="max", save_top_k=2)
    callback = detection(every_n_epochs=1, ood={"noise": "noise_dataloader"})
    found = trainer(callback, keep, enable_checkpointing=True, max_epochs=4)
    found.fit(UserModule(), datamodule=UserData())
    assert len(keep.best_k_models) == 2
    names = {path.name.partition(".")[0] for path in (tmp_path / "kept").glob("*.ckpt")}
    assert {path.name.partition(".")[0] for path in (tmp_path / "kept").glob("*.detector.safetensors")} == names
    for path in keep.best_k_models:
        module = UserModule.load_from_checkpoint(path)
        FailureDetector.load(path.replace(".ckpt", ".detector.safetensors"), module.net)
        torch.load(path, weights_only=True)
    for path in (tmp_path / "kept").glob("*.detector.safetensors"):
        path.unlink()  # that within is left
    again = trainer(detection(detector=fits_nothing, ood={"noise": "noise_dataloader"}))
    (validated,) = again.validate(UserModule(), datamodule=UserData(), ckpt_path=keep.best_model_path, verbose=False)
    assert validated["detection/val/noise/auroc"] == pytest.approx(float(keep.best_model_score))


def test_weights_without_a_detector_get_one_and_those_of_others_are_not_used(trainer, tmp_path):
    """The best weights are not the last: a test with them fits, from the loaders of the training, and keeps it."""

    class Worse(UserModule):
        def on_validation_epoch_end(self):
            self.log("worse", float(self.current_epoch))

    keep = ModelCheckpoint(tmp_path / "kept", "{epoch}", monitor="worse")
    callback = detection(calibration=2)
    found = trainer(callback, keep, enable_checkpointing=True, max_epochs=2)
    found.fit(module := Worse(), loader(300, 1), loader(150, 2))
    assert "epoch=0" in keep.best_model_path
    last = callback.detector(X).score
    beside = tmp_path / "kept" / "epoch=0.detector.safetensors"
    assert not beside.exists()
    found.test(module, loader(99, 3), ckpt_path="best", verbose=False)
    assert not torch.allclose(callback.detector(X).score, last)
    best = Worse.load_from_checkpoint(keep.best_model_path)
    assert torch.equal(FailureDetector.load(beside, best.net)(X).p_value, callback.detector(X).p_value)


def test_a_resumed_training_ends_with_the_detector_of_one_without_interruption(trainer, tmp_path):
    def train(epochs, path=None):
        keep = ModelCheckpoint(tmp_path / "kept", save_last=True)
        callback = detection(calibration=2, every_n_epochs=1)
        found = trainer(callback, keep, enable_checkpointing=True, max_epochs=epochs)
        lightning.seed_everything(0, verbose=False)
        found.fit(UserModule(), loader(300, 1), loader(150, 2), ckpt_path=path)
        return callback.detector(X).p_value, keep.last_model_path

    whole = train(2)[0]
    assert torch.equal(train(2, train(1)[1])[0], whole)
