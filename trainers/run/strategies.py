"""Distribution of a module that has nothing to differentiate."""

from lightning.pytorch.strategies import DDPStrategy, Strategy


class ReduceOnly(DDPStrategy):
    """Processes as in DDP, without its wrapper: that one synchronises gradients, and refuses a module without any."""

    def configure_ddp(self) -> None:
        """Nothing to wrap; the module reduces what it needs itself."""


_START = {"ddp": "popen", "ddp_spawn": "spawn", "ddp_fork": "fork"}


def without_gradients(strategy: str | Strategy) -> str | Strategy:
    """The strategy for EM that starts processes as `strategy` does for training; others are kept."""
    if isinstance(strategy, str) and strategy in _START:
        return ReduceOnly(start_method=_START[strategy])  # type: ignore[arg-type]
    return strategy
