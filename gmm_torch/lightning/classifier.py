"""The classifier in a module of a user's own."""

from operator import attrgetter

from lightning.pytorch import LightningModule
from torch import nn


def classifier_of(module: LightningModule, attribute: str | None) -> nn.Module:
    """What gives logits: an attribute of a module, `net` or `net.backbone`, or the module itself.

    Raises:
        ValueError: no such attribute, none that is a module, or a module without a forward.
    """
    if attribute is None and type(module).forward is not LightningModule.forward:
        return module
    try:
        found = None if attribute is None else attrgetter(attribute)(module)
    except AttributeError:
        found = None
    if isinstance(found, nn.Module):
        return found
    names = ", ".join(name for name, _ in module.named_children()) or "none"
    if attribute is None:
        expected, got = f"{type(module).__name__} with a forward", "none: name the attribute that gives logits"
    else:
        expected, got = f"the name of a module in {type(module).__name__}", repr(attribute)
    raise ValueError(f"classifier: expected {expected}; got {got}; its modules are: {names}")
