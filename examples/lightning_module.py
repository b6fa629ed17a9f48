"""A LightningModule of your own: when training ends a detector is fitted, evaluated and logged to TensorBoard."""

import lightning
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset, random_split

from gmm_torch.lightning import FailureDetection


def main(epochs: int = 20, folder: str = "runs") -> dict[str, float]:
    """What TensorBoard shows under `detection/`; `tensorboard --logdir runs` shows it."""

    class Digits(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))

        def training_step(self, batch, batch_idx):
            return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        validation_step = training_step

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), 3e-3)

    lightning.seed_everything(0, verbose=False)
    x, y = map(torch.tensor, load_digits(return_X_y=True))
    train, validation = random_split(TensorDataset(x.float() / 16, y), [600, 1197])
    detection = FailureDetection(2, classifier="net", ood={"noise": torch.rand(300, 64).split(50)})  # half calibrates
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(max_epochs=epochs, logger=TensorBoardLogger(folder), callbacks=[detection], **quiet)
    trainer.fit(Digits(), DataLoader(train, 50, shuffle=True), DataLoader(validation, 50))
    found = {name: round(float(value), 3) for name, value in trainer.callback_metrics.items()}
    print(f"seed 0: {found}")
    return found


if __name__ == "__main__":
    main()
