"""Training of a classifier with the density of its features in the loss."""

from typing import Any

from torch import Tensor

from trainers.modules.classifier_module import ClassifierModule
from trainers.modules.likelihood_term import LikelihoodTerm


class LikelihoodModule(ClassifierModule):
    """Cross entropy of labelled images, and a `LikelihoodTerm` of their features. Logs `train/likelihood_term` too.

    Args:
        *args, **options: of `ClassifierModule`; the features are the input of the classifier's last linear layer, and
            the optimizer moves the mixture's parameters too where the term trains it.
        term: of the features' density.

    Raises:
        ValueError: the classifier has no linear layer, or an option is out of its range.
    """

    def __init__(self, *args: Any, term: LikelihoodTerm, **options: Any) -> None:
        super().__init__(*args, **options)
        self.term = term
        term.prepare(self.classifier)
        self._progress: dict[str, Any] | None = None  # of the term's mixture, from a checkpoint

    def loss(self, batch: Any) -> Tensor:
        """The loss of a batch of images (N, C, H, W) and labels (N,)."""
        cross_entropy = super().loss(batch)
        term = self.term()
        self.log("train/likelihood_term", term.detach())
        return cross_entropy + term

    def on_fit_start(self) -> None:
        """Let the term listen."""
        self.term.listen(self.classifier)
        if self._progress is not None:
            self.term.online.load_state_dict(self._progress, self.device)
            self._progress = None

    def on_train_epoch_end(self) -> None:
        """Renew the term's mixture."""
        self.term.renew()

    def on_fit_end(self) -> None:
        """Let the term stop listening."""
        self.term.stop()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the state of the term's mixture."""
        checkpoint["likelihood_term"] = self.term.online.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it up again once the fit starts and the device is known."""
        self._progress = checkpoint.get("likelihood_term")
