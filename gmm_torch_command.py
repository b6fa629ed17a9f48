"""The command `gmm-torch`: the application, whatever else stands where it is run.

Outside of `gmm_torch`, whose import waits for torch, which help does without.
"""

import os
import sys
from pathlib import Path

HOME = Path(__file__).parent  # `gmm_torch` and the application `trainers` are installed beside this file


def find_application() -> None:
    """Let `trainers` be ours, here and in processes to come, and let the working directory be looked in as well.

    Where a user's own folder `trainers` stands on the path, ours is put before it, and the modules in theirs are still
    found (`trainers.__path__`). Nothing moves where there is none.
    """
    here = os.getcwd()
    if here not in map(os.path.abspath, sys.path):
        sys.path.append(here)
    others = (place for place in sys.path if any(Path(place, "trainers").glob("*.py")))
    if sys.path[0] != str(HOME) and not all(HOME.samefile(place or here) for place in others):
        sys.path.insert(0, str(HOME))
        given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        os.environ["PYTHONPATH"] = os.pathsep.join([str(HOME), *filter(None, given), here])
        os.environ["PYTHONSAFEPATH"] = "1"  # or `python -m` of a process to come would look here first


def main() -> None:
    """Run the application."""
    find_application()
    from trainers.main import command

    command()


if __name__ == "__main__":
    main()
