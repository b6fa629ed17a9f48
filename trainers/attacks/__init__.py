from trainers.attacks.attack import Attack
from trainers.attacks.result import AttackResult
from trainers.attacks.sweep import AttackSweep

__all__ = ["Attack", "AttackResult", "AttackSweep"]
