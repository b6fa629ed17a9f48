from trainers.attacks.adaptive.guarded import Guarded
from trainers.attacks.adaptive.imitation import Imitation
from trainers.attacks.adaptive.joint import Joint
from trainers.attacks.adaptive.search import AdaptiveAttack
from trainers.attacks.adaptive.targeted import Targeted

__all__ = ["AdaptiveAttack", "Guarded", "Imitation", "Joint", "Targeted"]
