"""What a user reads of a mistake that ended a job."""

from importlib.util import find_spec
from pathlib import Path

from hydra.errors import InstantiationException

MAX_HIDDEN = 5  # files in an error


def complaint(error: Exception) -> str:
    """What a mistake was, and where an import failed, what may have hidden the module that was meant."""
    cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
    hidden = _hidden() if _is_of_import(error) else []
    if not hidden:
        return str(cause)
    return (
        f"{cause}; the application is a package `trainers`, too, and hides {', '.join(map(str, hidden[:MAX_HIDDEN]))}: "
        "give what is imported from there a package of another name"
    )


def _hidden() -> list[Path]:
    """Modules of a user's own package `trainers` of whose names ours has others."""
    ours, *others = map(Path, find_spec("trainers").submodule_search_locations)  # type: ignore[union-attr, arg-type]
    names = {path.stem for path in ours.iterdir()} - {"__pycache__", "conf"}
    return [
        path for folder in others for path in sorted(folder.iterdir()) if path.stem in names and path.stat().st_size
    ]


def _is_of_import(error: BaseException | None) -> bool:
    return error is not None and (isinstance(error, ImportError) or _is_of_import(error.__cause__))
