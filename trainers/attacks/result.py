"""The result of an attack."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class AttackResult:
    """The successes of an attack, on the CPU, in the order of the data.

    Attributes:
        norm: of the attack: "l1", "l2" or "linf".
        epsilon: budget in pixel values of [0, 1], in that norm; None if the attack minimises it.
        black_box: whether the attack used no gradients.
        images: adversarial images in [0, 1], (n, C, H, W) float32.
        index: position of each in the data set, (n,) int64.
        label: true class, (n,) int64.
        prediction: class after the attack, (n,) int64; never the label.
        attacked: positions of all attacked images, (n_attacked,) int64; all were classified rightly before.
        median_l1, median_l2, median_linf: median norms of the successful perturbations; None if there are none.
        zero_gradient_share, vanishing_gradient_share, non_finite_gradient_share, random_share: of the attacked images,
            see `GradientDiagnostics`.
        huge_epsilon: a budget within which any image can be made any other class's; None where it was not tried.
        huge_success_rate: share of a few of the attacked images that change class within it.
        seconds: wall time of the search, without the selection of images and the checks.
    """

    name: str
    norm: str
    epsilon: float | None
    black_box: bool
    images: Tensor
    index: Tensor
    label: Tensor
    prediction: Tensor
    attacked: Tensor
    median_l1: float | None
    median_l2: float | None
    median_linf: float | None
    zero_gradient_share: float
    vanishing_gradient_share: float
    non_finite_gradient_share: float
    random_share: float
    huge_epsilon: float | None
    huge_success_rate: float | None
    seconds: float

    @property
    def n_attacked(self) -> int:
        """Number of images attacked."""
        return len(self.attacked)

    @property
    def n_success(self) -> int:
        """Number of successes n."""
        return len(self.index)

    @property
    def success_rate(self) -> float:
        """Share of the attacked images for which the attack succeeded; 0 if none was attacked."""
        return self.n_success / self.n_attacked if self.n_attacked else 0.0

    @property
    def median_norm(self) -> float | None:
        """Median of the successful perturbations in the attack's own norm; None if there are none."""
        return {"l1": self.median_l1, "l2": self.median_l2, "linf": self.median_linf}[self.norm]

    @property
    def seconds_per_image(self) -> float | None:
        """Wall time of the search for one attacked image; None if none was attacked."""
        return self.seconds / self.n_attacked if self.n_attacked else None
