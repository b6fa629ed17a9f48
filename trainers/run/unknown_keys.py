"""What is meant by a key that the configuration lacks. Without torch, for which a mistyped word need not wait."""

from difflib import get_close_matches

from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError


def meant(error: BaseException | None) -> str:
    """What to write in place of a key that Hydra could not set; empty where no key beside it is close to it."""
    cause = error.__cause__ if isinstance(error, ConfigCompositionException) else None
    if not isinstance(cause, ConfigAttributeError | ConfigKeyError) or not isinstance(cause.parent_node, DictConfig):
        return ""
    close = get_close_matches(str(cause.key), map(str, cause.parent_node), n=1)
    if not close:
        return ""
    above = str(cause.full_key).rpartition(".")[0]
    right = f"{above}.{close[0]}" if above else close[0]
    return f"{cause.full_key}: expected a key of the configuration; got one that there is not: did you mean {right}?"
