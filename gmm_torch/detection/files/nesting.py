"""A network and a module that holds it: the same layers, whose names there have a prefix."""

from collections.abc import Iterator

from torch import nn

from gmm_torch.detection.features.places import parse
from gmm_torch.detection.features.wrappers import named_networks, unwrapped_names
from gmm_torch.detection.files.storage import fingerprint


def found_nested(classifier: nn.Module, structure: str, layer: str) -> str | None:
    """How the names of a classifier's layers differ from those stored, in words; None unless by a prefix alone.

    Args:
        classifier: with other names or layers than stored.
        structure: the stored hash.
        layer: a stored place of features, whose name has the stored prefix.
    """
    networks, names = dict(named_networks(classifier)), sorted(unwrapped_names(classifier).values())
    if not names:
        return None
    for prefix in _before(parse(layer).module, networks):
        if fingerprint(classifier, f"{prefix}.")["structure"] == structure:
            stored = f"{prefix}.{names[0]}"
            return f"stored is {stored!r} and here {names[0]!r}: give the module that holds this one as {prefix!r}"
    for prefix, network in networks.items():
        holds_all = prefix and all(name.startswith(f"{prefix}.") for name in names)
        if holds_all and fingerprint(network)["structure"] == structure:
            stored = names[0].removeprefix(f"{prefix}.")
            return f"stored is {stored!r} and here {names[0]!r}: give its module {prefix!r}"
    return None


def _before(name: str, networks: dict[str, nn.Module]) -> Iterator[str]:
    """What may stand before a network's name in that of a layer."""
    for inner in networks:
        prefix = name.removesuffix(f".{inner}") if inner else name
        if prefix and (prefix != name or not inner):
            yield prefix
