"""The application's configuration, as a command composes it."""

import copy
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from unittest.mock import patch

import omegaconf
from hydra import compose, initialize_config_dir
from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository, IConfigRepository
from hydra.core.default_element import ResultDefault
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigResult
from omegaconf import Container, DictConfig, OmegaConf, grammar_parser

from trainers.main import CONF

# An expression of a configuration is parsed once: that takes a good part of the time, and trees stay as they are.
omegaconf.base.parse = omegaconf._utils.parse = cache(grammar_parser.parse)


def configure(*overrides: str) -> DictConfig:
    """A configuration of the caller's own.

    The same choices of groups are composed once; single values are then set in a copy, which is how Hydra sets them.
    Copies are unpickled, in a fifth of the time of `copy.deepcopy`.
    """
    values = [each for each in overrides if _sets_a_value(each)]
    cfg: DictConfig = pickle.loads(_composed(tuple(each for each in overrides if each not in values)))
    ConfigLoaderImpl._apply_overrides_to_config([_parsed(each) for each in values], cfg)
    return cfg


def _sets_a_value(override: str) -> bool:
    key = override.partition("=")[0].lstrip("+~")
    return not (key.startswith("hydra") or {"/", "@"} & set(key) or (CONF / key).is_dir())


@cache
def _parsed(override: str) -> Override:
    return OverridesParser.create().parse_override(override)


@cache
def _composed(overrides: tuple[str, ...]) -> bytes:
    with initialize_config_dir(str(CONF), version_base="1.3"), files_read_once():
        cfg = compose("config", list(overrides))
    cfg._re_parent()
    return pickle.dumps(cfg)


@contextmanager
def files_read_once() -> Iterator[None]:
    """Within, Hydra composes from what was read before."""
    with (
        patch.object(ConfigRepository, "load_config", _read),
        patch.object(ConfigLoaderImpl, "_load_single_config", _placed),
        patch.object(defaults_list, "_create_interpolation_map", _no_choices),
        patch.object(ConfigRepository, "__deepcopy__", _shallow, create=True),
        patch.object(Container, "_re_parent", _later),
    ):
        yield


_READ: dict[tuple[str, ...], bytes] = {}
_PLACED: dict[tuple[object, ...], bytes] = {}
_load, _place = ConfigRepository.load_config, ConfigLoaderImpl._load_single_config


def _read(repository: ConfigRepository, config_path: str) -> ConfigResult | None:
    """A file of the configuration, read once for all that is composed; Hydra changes what it gets."""
    key = (config_path, *(source.full_path() for source in repository.sources))
    if key not in _READ:
        if (result := _load(repository, config_path)) is None:
            return None
        _READ[key] = pickle.dumps(result)
    found: ConfigResult = pickle.loads(_READ[key])
    return found


def _placed(loader: ConfigLoaderImpl, default: ResultDefault, repo: IConfigRepository) -> ConfigResult:
    """A file of the configuration under its key, to where Hydra copies it node by node."""
    sources = (source.full_path() for source in repo.get_sources())
    key = (default.config_path, default.package, default.primary, *sources)
    if key not in _PLACED:
        _PLACED[key] = pickle.dumps(_place(loader, default, repo))
    found: ConfigResult = pickle.loads(_PLACED[key])
    return found


def _no_choices(*_: object) -> DictConfig:
    """What names in a defaults list are interpolated from: none of ours is, and it is made anew for every name."""
    return OmegaConf.create({})


def _shallow(repository: ConfigRepository, _: object) -> ConfigRepository:
    """A copy that gets sources of its own, which is all that Hydra changes in it."""
    return copy.copy(repository)


def _later(_: Container) -> None:
    """What each node lies in: Hydra tells the whole tree after every file; once, in the end, does."""
