"""A user's own Trainer, module and data: what is logged, and that nothing else changes."""

import csv
import math
from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.utils.data import DataLoader, Subset, TensorDataset

from gmm_torch import NotFittedError, PrecisionWarning
from gmm_torch.evaluation.detection import evaluate
from gmm_torch.lightning import FailureDetection
from tests.gmm_torch.lightning.conftest import SMALL, UserData, UserModule, images, loader, noise


def expected(module, calibration, validation, ood=None, stage="val"):
    """The values that a detector made by hand gives."""
    detector = SMALL(module.net).fit(DataLoader(images(300, 1), 32)).calibrate(DataLoader(calibration, 32))
    found = evaluate(detector, DataLoader(validation, 32), ood)
    return {f"detection/{stage}/{name}": value for name, value in found.items()}


def logged(trainer):
    return {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("detection/")}


def test_what_is_logged_is_what_a_detector_made_by_hand_gives(trainer, tmp_path):
    callback = FailureDetection(ood={"noise": "noise_dataloader"}, classifier="net", detector=SMALL)
    found, module = trainer(callback, max_epochs=2), UserModule()
    found.fit(module, datamodule=UserData())
    by_hand = expected(module, images(81, 4), images(101, 2), {"noise": noise()})
    assert logged(found) == pytest.approx(by_hand)
    assert 0 < by_hand["detection/val/errors/n"] < 101
    assert by_hand.keys() >= {
        f"detection/val/{source}/{name}"
        for source in ("errors", "noise")
        for name in ("auroc", "fpr95", "softmax_auroc", "softmax_fpr95", "refused")
    }
    (tested,) = found.test(module, datamodule=UserData(), verbose=False)
    by_hand = expected(module, images(81, 4), images(99, 3), {"noise": noise()}, "test")
    assert {name: value for name, value in tested.items() if name != "loss"} == pytest.approx(by_hand)
    (validated,) = found.validate(module, datamodule=UserData(), verbose=False)
    assert validated["detection/val/errors/aurc"] == pytest.approx(logged(found)["detection/val/errors/aurc"])


def test_loggers_write_what_is_logged(trainer, tmp_path):
    loggers = [CSVLogger(tmp_path, "csv")]
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    loggers.append(TensorBoardLogger(tmp_path, "tensorboard"))
    callback = FailureDetection(2, ood={"noise": noise()}, classifier="net", detector=SMALL)
    found, module = trainer(callback, max_epochs=2, logger=loggers), UserModule()
    found.fit(module, loader(300, 1), loader(150, 2))
    values, step = logged(found), found.global_step
    found.test(module, loader(99, 3), verbose=False)
    values |= logged(found)
    assert {"detection/val/noise/auroc", "detection/test/noise/auroc", "detection/test/errors/aurc"} <= values.keys()
    with open(f"{loggers[0].log_dir}/metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["step"] == str(step)]
    events = accumulator.EventAccumulator(loggers[1].log_dir).Reload()
    for name, value in values.items():
        assert [float(row[name]) for row in rows if row[name]] == [pytest.approx(value)], name
        assert [(each.step, each.value) for each in events.Scalars(name)] == [(step, pytest.approx(value))], name


def test_training_goes_on_as_without_it(trainer):
    trained = []
    for callbacks in ([], [FailureDetection(2, classifier="net", every_n_epochs=1, detector=SMALL)]):
        module = UserModule(dropout=0.5)
        lightning.seed_everything(3, verbose=False)
        trainer(*callbacks, max_epochs=2).fit(module, loader(300, 1, shuffle=True), loader(150, 2))
        trained.append(module.net.state_dict())
        assert module.training
    torch.testing.assert_close(*trained, rtol=0, atol=0)


def test_loaders_are_not_mixed(trainer):
    """Each has its own errors; out-of-distribution inputs stand beside the first alone."""
    hard = images(60, 7)
    hard.tensors[1].copy_((hard.tensors[1] + 1) % 3)
    loaders = [loader(101, 2), DataLoader(hard, 32)]
    callback = FailureDetection(loader(81, 4), ood={"noise": noise()}, classifier="net", detector=SMALL)
    found, module = trainer(callback, max_epochs=2), UserModule()
    found.fit(module, loader(300, 1), loaders)
    by_hand = expected(module, images(81, 4), images(101, 2), {"noise": noise()})
    assert logged(found) == pytest.approx(by_hand | expected(module, images(81, 4), hard, stage="val_1"))
    assert logged(found)["detection/val_1/accuracy"] < 0.5 < logged(found)["detection/val/accuracy"]
    named = trainer(FailureDetection(loader(81, 4), classifier="net", detector=SMALL))
    named.fit(UserModule(), loader(300, 1), {"easy": loaders[0], "hard": loaders[1]})
    assert {name.split("/")[1] for name in logged(named)} == {"val_easy", "val_hard"}


def test_what_calibrates_of_the_validation_inputs_is_not_evaluated(trainer):
    callback = FailureDetection(3, classifier="net", detector=SMALL)
    found, module = trainer(callback), UserModule()
    found.fit(module, loader(300, 1), loader(150, 2, shuffle=True, drop_last=True))
    held_out = list(range(0, 150, 3))
    rest = [i for i in range(150) if i % 3]
    values = expected(module, Subset(images(150, 2), held_out), Subset(images(150, 2), rest))
    assert logged(found) == pytest.approx(values)


def test_limits_hold_and_what_runs_before_or_in_place_of_training_fits_nothing(trainer):
    made = []

    def counted(net):
        made.append(net)
        return SMALL(net)

    def callback():
        return FailureDetection(loader(81, 4), classifier="net", detector=counted)

    found, module = (
        trainer(callback(), limit_train_batches=4, limit_val_batches=2, num_sanity_val_steps=1),
        UserModule(),
    )
    found.fit(module, loader(300, 1), loader(101, 2))
    by_hand = SMALL(module.net).fit(loader(300, 1).dataset.tensors[0][:128].split(32)).calibrate(loader(81, 4))
    values = evaluate(by_hand, DataLoader(Subset(images(101, 2), range(64)), 32))
    assert logged(found) == pytest.approx({f"detection/val/{name}": value for name, value in values.items()})
    made.clear()
    rehearsal = trainer(rehearsed := callback(), fast_dev_run=True)
    rehearsal.fit(UserModule(), loader(300, 1), loader(101, 2))
    rehearsal.test(UserModule(), loader(99, 3), verbose=False)
    assert logged(rehearsal) == {}
    assert len(made) == 2  # to check their options
    with pytest.raises(NotFittedError, match="no detector yet"):
        _ = rehearsed.detector
    without = trainer(FailureDetection(loader(81, 4), classifier="net", detector=SMALL), limit_val_batches=0)
    without.fit(UserModule(), loader(300, 1))
    assert logged(without) == {}


@pytest.mark.filterwarnings(f"error::{PrecisionWarning.__module__}.{PrecisionWarning.__name__}")
def test_the_precision_is_the_trainers(trainer):
    callback = FailureDetection(2, classifier="net", detector=SMALL)
    found, module = trainer(callback, precision="bf16-mixed"), UserModule()
    found.fit(module, loader(300, 1), loader(150, 2))
    assert "autocast to bfloat16" in callback.detector.precision
    found.test(module, loader(99, 3), verbose=False)
    true = trainer(callback := FailureDetection(2, classifier="net", detector=SMALL), precision="bf16-true")
    true.fit(UserModule(), loader(300, 1), loader(150, 2))
    assert (callback.detector.precision, callback.detector.dtype) == ("bfloat16", torch.float32)


@pytest.mark.parametrize("attribute", [None, "net"])
def test_compiled_modules_are_as_plain_ones(trainer, attribute):
    values = []
    for compiled in (False, True):
        module = UserModule()
        if compiled and attribute:
            module.net = torch.compile(module.net, backend="eager")
        callback = FailureDetection(2, classifier=attribute, every_n_epochs=1, detector=SMALL)
        found = trainer(callback, max_epochs=2)
        given = torch.compile(module, backend="eager") if compiled and not attribute else module
        found.fit(given, loader(300, 1), loader(150, 2))
        values.append(logged(found) | {"p": callback.detector(images(20, 5).tensors[0]).p_value.tolist()})
    assert values[0]["p"] == pytest.approx(values[1].pop("p"))
    del values[0]["p"]
    assert values[0] == pytest.approx(values[1])


def test_batches_pass_through_the_hooks_of_module_and_data_module(trainer):
    class Scaled(UserModule):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            assert not (self.trainer.training and not self.training)
            return [batch[0] * (2 if self.trainer.training else 1) / 255, batch[1]]

    class Bytes(UserData):
        def on_before_batch_transfer(self, batch, dataloader_idx):
            return [batch[0] * 255, batch[1]] if len(batch) == 2 else batch

    callback = FailureDetection(classifier="net", detector=SMALL)
    found, module = trainer(callback, max_epochs=2), Scaled()
    found.fit(module, datamodule=Bytes())
    assert logged(found) == pytest.approx(expected(module, images(81, 4), images(101, 2)), abs=0.05)


class RightEverySecondEpoch(UserModule):
    """What it does not know in one epoch it reads off a bright pixel in the next."""

    def __init__(self):
        super().__init__(lr=0.0)
        self.register_buffer("knows", torch.zeros(()))

    def forward(self, x):
        return self.net(x) + 100 * self.knows * x[:, 0, 0, :3]

    def on_train_epoch_start(self):
        self.knows.fill_(self.current_epoch % 2)


def test_what_is_undefined_is_nan_and_ranked_last(trainer, tmp_path):
    """Or the value of the epoch before would stand."""
    x, label = images(101, 2).tensors
    x[torch.arange(101), 0, 0, label] += 4
    monitored = {"monitor": "detection/val/errors/auroc", "mode": "max"}
    best = ModelCheckpoint(tmp_path, **monitored, save_top_k=-1)
    stop = EarlyStopping(**monitored, patience=9, check_finite=False)
    callback = FailureDetection(loader(81, 4), every_n_epochs=1, detector=SMALL)
    found = trainer(best, stop, callback, max_epochs=4, enable_checkpointing=True)
    found.fit(RightEverySecondEpoch(), loader(300, 1), DataLoader(TensorDataset(x, label), 32))
    assert found.current_epoch == 4
    by_epoch = {int(Path(path).name[6]): float(value) for path, value in best.best_k_models.items()}
    assert [epoch for epoch, value in by_epoch.items() if value == -math.inf] == [1, 3]
    assert 0 <= by_epoch[0] <= 1
    assert Path(best.best_model_path).name.startswith(("epoch=0-", "epoch=2-"))
    undefined = {name.rpartition("/")[2] for name, value in logged(found).items() if math.isnan(value)}
    assert undefined == {"auroc", "fpr95", "softmax_auroc", "softmax_fpr95", "refused"}


def test_a_checkpoint_is_ranked_by_the_value_of_its_epoch(trainer, tmp_path):
    """With the options of the docs, though validation comes in other epochs."""
    values = {}

    class Recorded(lightning.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            if "detection/val/noise/auroc" in trainer.callback_metrics:
                values[trainer.current_epoch] = logged(trainer)["detection/val/noise/auroc"]

    monitored = {"monitor": "detection/val/noise/auroc", "mode": "max"}
    best = ModelCheckpoint(tmp_path, **monitored, every_n_epochs=3, save_on_train_epoch_end=True, save_top_k=-1)
    stop = EarlyStopping(**monitored, patience=9, strict=False, check_finite=False, check_on_train_epoch_end=True)
    callback = FailureDetection(2, ood={"noise": noise()}, classifier="net", every_n_epochs=3, detector=SMALL)
    options = {"max_epochs": 6, "check_val_every_n_epoch": 2, "enable_checkpointing": True}
    found = trainer(best, stop, callback, Recorded(), **options)
    found.fit(UserModule(), loader(300, 1), loader(150, 2))
    by_epoch = {int(Path(path).name[6]): float(value) for path, value in best.best_k_models.items()}
    assert by_epoch == {epoch: values[epoch] for epoch in (2, 5)}
    assert values[2] != values[5]
