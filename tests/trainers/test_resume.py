"""A training that was ended and is resumed gives the bytes of one that was not."""

import pytest

from tests.configuration import configure
from trainers.modules.classifier_module import ClassifierModule
from trainers.run.job import run_task

TRAINING = (
    *("data=digits", "task=train", "data.batch_size=64", "data.augment.crop_padding=1", "trainer=cpu"),
    *(
        "trainer.max_epochs=3",
        "+trainer.limit_train_batches=4",
        "+trainer.limit_val_batches=1",
        "trainer.enable_progress_bar=false",
    ),
)


class Ended(Exception):
    pass


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.parametrize(("n_workers", "place"), [(0, "another"), (2, "run")])
def test_the_same_classifier_bit_for_bit(tmp_path, monkeypatch, n_workers, place):
    options = (*TRAINING, f"data.num_workers={n_workers}")
    run_task(configure(*options), tmp_path / "whole")

    def end(self):
        if self.current_epoch == 2:
            raise Ended

    with monkeypatch.context() as patched:
        patched.setattr(ClassifierModule, "on_train_epoch_start", end, raising=False)
        with pytest.raises(Ended):
            run_task(configure(*options), tmp_path / "run")
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    run_task(configure(*options, f"resume={last}"), tmp_path / place)
    whole, resumed = ((tmp_path / name / "classifier.safetensors").read_bytes() for name in ("whole", place))
    assert resumed == whole
