"""What an attack leaves behind."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class AttackResult:
    """The successes of an attack, on the CPU, in the order of the data.

    Attributes:
        name: name of the attack.
        epsilon: budget in pixel values of [0, 1], in the attack's own norm; None if it minimises the norm.
        images: adversarial images in [0, 1], (n, C, H, W) float32.
        index: position of each in the data set, (n,) int64.
        label: true class, (n,) int64.
        prediction: class after the attack, (n,) int64; never the label.
        n_attacked: number of images attacked, all of them classified rightly before.
        median_l2: median Euclidean norm of the successful perturbations; None if there are none.
        median_linf: median largest change of a pixel value; None if there are none.
        zero_gradient_share: share of the attacked images at which the gradient of the cross entropy is
            exactly zero.
        seconds: wall time.
    """

    name: str
    epsilon: float | None
    images: Tensor
    index: Tensor
    label: Tensor
    prediction: Tensor
    n_attacked: int
    median_l2: float | None
    median_linf: float | None
    zero_gradient_share: float
    seconds: float

    @property
    def n_success(self) -> int:
        """Number of successes n."""
        return len(self.index)

    @property
    def success_rate(self) -> float:
        """Share of the attacked images for which the attack succeeded; 0 if none was attacked."""
        return self.n_success / self.n_attacked if self.n_attacked else 0.0
