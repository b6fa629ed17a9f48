"""Log-likelihood of the log-probabilities that the classifier gives all views, jointly."""

from collections.abc import Sequence

from torch import Tensor

from gmm_torch.features.features import Features
from gmm_torch.scores.feature_mixture import LOG_SOFTMAX, Block, each_view
from gmm_torch.scores.joint_likelihood import JointLikelihood


class LogitLikelihood(JointLikelihood):
    """A mixture over the log-softmax of every view, concatenated: (N, V C).

    It knows how the log-probabilities of a clean image move from view to view. Those of an adversarial image move
    otherwise.

    Args: those of `JointLikelihood`.
    """

    name = "logit_likelihood"
    in_words = "the classifier's outputs"
    default_weights = (1 / 16, 1 / 8)
    reads_features = False
    views = ("identity", "mirror", "blur")

    def make_blocks(self, widths: dict[str, int], n_views: int, n_classes: int) -> Sequence[Block]:
        return [Block(LOG_SOFTMAX, each_view(n_views), n_classes)]

    def features(self, outputs: Features) -> Tensor:
        """Log-softmax of all views: (N, V C)."""
        return outputs.logits.log_softmax(-1).flatten(1)
