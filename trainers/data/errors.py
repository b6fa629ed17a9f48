"""Errors about data on disk."""

from collections.abc import Mapping, Sequence


class DataError(RuntimeError):
    """A dataset is there but can't be used as it is."""


class DataNotFoundError(DataError):
    """A dataset is neither on this machine nor to be had by download."""


class MissingSetsError(DataNotFoundError):
    """Several sets can't be had; `errors` says what is wrong with each, by name."""

    def __init__(self, errors: Mapping[str, DataNotFoundError]) -> None:
        self.errors = dict(errors)
        told = " | ".join(f"{name}: {error}" for name, error in errors.items())
        super().__init__(
            f"{len(errors)} data set{'s' * (len(errors) > 1)} can't be found. {told} | missing_data=leave_out goes "
            "on without the out-of-distribution sets that are missing."
        )


class UnreadableImagesError(DataError):
    """Some files of an image folder, `paths`, can't be decoded."""

    def __init__(self, folder: str, reasons: Mapping[str, str], n_files: int) -> None:
        self.paths = list(reasons)
        super().__init__(
            f"{len(reasons)} of {n_files} image files in {folder} can't be read: {first_few(self.paths, 10)}. "
            "Repair or remove them, or set data.source.skip_unreadable=true to leave them out. "
            f"The first: {next(iter(reasons.values()))}"
        )


def first_few(names: Sequence[str], shown: int, n: int | None = None) -> str:
    """The first names, and how many more there are of `n`; None where `names` has all."""
    named = names[:shown]
    rest = (len(names) if n is None else n) - len(named)
    return ", ".join(named) + (f" and {rest} more" if rest else "")


class OverlapError(DataError):
    """Two splits that must be disjoint share images."""
