"""Nobody waits for a library that is not needed yet."""

import subprocess
import sys

import pytest

HEAVY = {
    "foolbox",
    "lightning",
    "matplotlib",
    "pandas",
    "pytorch_lightning",
    "scipy.optimize",
    "scipy.signal",
    "scipy.sparse",
    "scipy.special",
    "scipy.stats",
    "sklearn",
    "torch._dynamo",
    "torchmetrics",
    "torchvision",
    "transformers",
}
TELL = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); "
COMMANDS = {
    "the library": (["import gmm_torch"], HEAVY, {"torch", "gmm_torch.conformal.mondrian"}),
    "help": (["from trainers.main import main; main()", "--help"], HEAVY | {"numpy", "torch"}, {"hydra", "trainers"}),
}


@pytest.mark.parametrize(("command", "left_out", "needed"), COMMANDS.values(), ids=COMMANDS)
def test_no_heavy_module_is_imported_before_it_is_used(command, left_out, needed):
    code, *arguments = command
    run = [sys.executable, "-c", TELL + code, *arguments]
    imported = set(subprocess.run(run, capture_output=True, text=True, check=True).stderr.split())
    assert imported >= needed
    assert sorted(imported & left_out) == []
