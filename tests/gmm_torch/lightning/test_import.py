"""The library alone needs none of what its rooms for others import."""

import subprocess
import sys


def test_importing_the_library_imports_no_lightning():
    found = "[name for name in ('lightning', 'pytorch_lightning', 'torchmetrics', 'sklearn') if name in sys.modules]"
    command = [sys.executable, "-c", f"import sys, gmm_torch; print({found})"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"
