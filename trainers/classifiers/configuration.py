"""What `conf/` needs to be composed and resolved: a classifier that takes any key, what a model declares, folders."""

from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf


def model_declares(field: str, default: Any, *, _root_: DictConfig) -> Any:
    """`${model_declares:FIELD,DEFAULT}`: a field of `Declared`, or the default where the library declares nothing."""
    from trainers.classifiers.preprocessing import declared  # importing `trainers` alone stays quick

    found = declared(_root_.classifier) if "classifier" in _root_ else None
    value = default if found is None else getattr(found, field)
    return OmegaConf.create(value) if isinstance(value, list) else value


def if_task_is_run(overrides: list[str], then: str, otherwise: str) -> str:
    """`${if_task_is_run:OVERRIDES,THEN,OTHERWISE}`: whether a command leaves the task at its default."""
    tasks = [each for each in overrides if each.startswith("task=")]
    return otherwise if set(tasks) - {"task=run"} else then


OmegaConf.register_new_resolver("if_task_is_run", if_task_is_run, replace=True)
OmegaConf.register_new_resolver("model_declares", model_declares, replace=True)
# The arguments of a network are its own: `classifier.model_name=resnet18` needs no plus.
ConfigStore.instance().store(group="classifier", name="_open", node=DictConfig({}, flags={"struct": False}))
