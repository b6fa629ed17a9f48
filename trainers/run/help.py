"""What `gmm-torch --help` lists: tasks and choices, read from the configuration's files."""

from collections.abc import Iterator
from pathlib import Path
from textwrap import fill

from omegaconf import DictConfig, OmegaConf

WIDTH = 110


def tasks(*, _root_: DictConfig) -> str:
    """`${tasks:}`: each task, and the first comment of its file."""
    found = dict(sorted(_options("task", _root_)))
    width = max(map(len, found))
    return "\n".join(f"{name:{width}}  {_first_comment(path)}".rstrip() for name, path in found.items())


def choices(group: str, about: str, *, _root_: DictConfig) -> str:
    """`${choices:GROUP,ABOUT}`: a group, what it is about, and its choices, of which none begins with `_`."""
    names = sorted({name for name, _ in _options(group, _root_)})
    listed = fill(", ".join(names), WIDTH, initial_indent="      ", subsequent_indent="      ", break_on_hyphens=False)
    return f"  {group}{about and f': {about}'}\n{listed}"


def _options(group: str, root: DictConfig) -> Iterator[tuple[str, Path]]:
    for source in root.hydra.runtime.config_sources:  # ours, and what `hydra.searchpath` adds
        if source.schema == "file":
            yield from ((path.stem, path) for path in Path(source.path, group).glob("[!_]*.yaml"))


def _first_comment(path: Path) -> str:
    lines = (line.lstrip("# ") for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#"))
    return next((line for line in lines if not line.startswith("@package")), "")


OmegaConf.register_new_resolver("tasks", tasks, replace=True)
OmegaConf.register_new_resolver("choices", choices, replace=True)
