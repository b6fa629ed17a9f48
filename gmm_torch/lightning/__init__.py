"""For a Lightning Trainer and modules of one's own; the only room that imports Lightning."""

from gmm_torch.lightning.failure_detection import FailureDetection

__all__ = ["FailureDetection"]
