"""Lightning modules, data, attacks, evidence and reports around the library `gmm_torch`."""

import sys
from pathlib import Path

from trainers.classifiers import configuration  # noqa: F401 - what every configuration needs to be composed

# Modules in a user's own folder `trainers` on the path are found beside ours; those of another copy of ours are not.
_found = [Path(place).absolute() for place in sys.path if not Path(place, "gmm_torch").is_dir()]
__path__ += [str(place / "trainers") for place in _found if any(place.glob("trainers/*.py"))]
