from trainers.attacks.attack import Attack
from trainers.attacks.attack_budgets import AttackBudgets
from trainers.attacks.result import AttackResult

__all__ = ["Attack", "AttackBudgets", "AttackResult"]
