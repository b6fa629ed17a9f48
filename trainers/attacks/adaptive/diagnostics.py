"""Diagnostics: when an evasion curve says more about the attack than about the detector.

Source: Carlini et al. 2019, "On evaluating adversarial robustness", section 5; Tramer et al. 2020, "On adaptive
attacks to adversarial example defenses".
"""

from trainers.attacks.adaptive.curve import Curve
from trainers.attacks.adaptive.guarded import Guarded
from trainers.attacks.adaptive.search import AdaptiveAttack
from trainers.attacks.adaptive.threat_model import ThreatModel
from trainers.attacks.diagnostics import ZERO_GRADIENT_LIMIT, diagnose_gradients

LOST_LIMIT = 0.05  # share of images that a larger budget may lose before the search counts as weak
UNRESTRICTED_LIMIT = 0.95  # share of images that an attack must get through where every change is allowed


def curve_diagnostics(curve: Curve) -> list[str]:
    """Why an attack may be too weak to evaluate a detector with; nothing where it passes."""
    found = []
    worst = max(curve.points(), key=lambda point: point.n_lost / max(point.n, 1))
    if worst.n_lost > LOST_LIMIT * worst.n:
        found.append(
            f"at eps = {worst.epsilon:.4g} its search misses {worst.n_lost} of {worst.n} images that it evades with "
            "within a smaller budget: give it more steps or restarts"
        )
    if curve.unrestricted is not None and curve.unrestricted < UNRESTRICTED_LIMIT:
        found.append(
            f"with every change allowed only {curve.unrestricted:.0%} of the images evade, so a low curve is no sign "
            "of security: give it more steps or restarts, or another objective"
        )
    return found


def detector_diagnostics(threat: ThreatModel, attack: AdaptiveAttack) -> list[str]:
    """What keeps a gradient attack from evaluating a detector; nothing where all is well."""
    images, labels = threat.images[: attack.batch_size], threat.labels[: attack.batch_size]
    gradients = diagnose_gradients(Guarded(threat.detector), images, labels)
    zero = float((gradients.zero | gradients.vanishing).double().mean())
    found = []
    if attack.objective.uses_score and (zero > ZERO_GRADIENT_LIMIT or not threat.detector.score.differentiable):
        found.append(
            f"the gradient of classifier and score {threat.detector.score.name} vanishes at {zero:.0%} of the images: "
            "only imitation, which does without, says something there"
        )
    if attack.draws == 1 and bool(gradients.random.any()):
        found.append("the detector's scores are random: set draws to average gradients over")
    return found
