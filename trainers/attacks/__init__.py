from trainers.attacks.attack import Attack
from trainers.attacks.result import AttackResult

__all__ = ["Attack", "AttackResult"]
