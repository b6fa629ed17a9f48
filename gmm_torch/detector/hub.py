"""A detector in a folder or a repository of the Hugging Face Hub: a safetensors file, and a page that describes it."""

import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from torch import nn

from gmm_torch.detector.model_card import check_metrics, model_card
from gmm_torch.features.adapter import Adapter
from gmm_torch.files import write_text

if TYPE_CHECKING:
    from gmm_torch.detector.detector import FailureDetector

DETECTOR, CONFIG, METRICS, CARD = "detector.safetensors", "config.json", "metrics.json", "README.md"
TIMEOUT = 10.0  # seconds that the Hub may take to answer

Metrics = Mapping[str, Any] | str | os.PathLike[str] | None


class OnHub:
    """The three calls by which models of the Hub are shared; the classifier is shared on its own."""

    def save_pretrained(self, folder: str | os.PathLike[str], *, metrics: Metrics = None) -> None:
        """Write the detector, without its classifier, and a model card into a folder.

        Args:
            folder: made where there is none; files of the same names are replaced.
            metrics: the `metrics.json` of an evaluation of this detector, or its content, which then fills the card.

        Raises:
            NotFittedError: before `fit` and `calibrate`.
            ValueError: the metrics are of another detector, or no metrics.
        """
        detector, folder = cast("FailureDetector", self), Path(folder)
        if isinstance(metrics, str | os.PathLike):
            metrics = cast("Mapping[str, Any]", json.loads(Path(metrics).read_text(encoding="utf-8")))
        if metrics is not None:
            check_metrics(metrics, detector)
        detector.save(folder / DETECTOR)
        config = {"library_name": "gmm_torch", "alpha": detector.alpha, "score": detector.score.name}
        write_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")
        write_text(folder / CARD, model_card(detector, metrics))
        (folder / METRICS).unlink(missing_ok=True)
        if metrics is not None:
            write_text(folder / METRICS, json.dumps(metrics, indent=2, allow_nan=False) + "\n")

    def push_to_hub(self, repo_id: str, *, metrics: Metrics = None, **options: Any) -> str:
        """`save_pretrained` into a repository of the Hub, which is made where there is none.

        Args:
            repo_id: "user/name".
            metrics: see `save_pretrained`.
            **options: of `huggingface_hub.ModelHubMixin.push_to_hub`: private, token, branch, commit_message, ...

        Returns:
            the address of the commit.

        Raises:
            ImportError: huggingface_hub is not installed.
        """
        return str(_shared()(self, metrics).push_to_hub(repo_id, **options))

    @classmethod
    def from_pretrained(
        cls,
        folder_or_repo: str | os.PathLike[str],
        classifier: nn.Module,
        *,
        strict: bool = True,
        adapter: Adapter | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
    ) -> Self:
        """The detector of a folder or of a repository of the Hub, for `classifier`; see `FailureDetector.load`.

        Where the Hub can't be reached, it is the one that an earlier call left in the cache.

        Args:
            folder_or_repo: a folder that `save_pretrained` wrote, or "user/name".
            classifier, strict, adapter: see `FailureDetector.load`.
            revision: a branch, tag or commit of the repository.
            token, cache_dir, force_download, local_files_only: see `huggingface_hub.hf_hub_download`.

        Raises:
            FileNotFoundError: a folder without a detector, or neither a folder nor a repository that can be reached.
            ImportError: a repository, and huggingface_hub is not installed.
            FileFormatError, ValueError: see `FailureDetector.load`.
        """
        if os.path.isdir(folder_or_repo):
            path = str(Path(folder_or_repo) / DETECTOR)
        else:
            options = {"token": token, "cache_dir": cache_dir, "force_download": force_download}
            path = _download(str(folder_or_repo), revision, local_files_only, **options)
        found = cast("type[FailureDetector]", cls).load(path, classifier, strict=strict, adapter=adapter)
        return cast(Self, found)


@functools.cache
def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError(
            "huggingface_hub: expected to be installed, for a repository of the Hub; it is not: pip install "
            "huggingface_hub"
        ) from error
    return huggingface_hub


@functools.cache
def _shared() -> Any:
    """The class through which the Hub's own mixin pushes."""

    class Shared(_hub().ModelHubMixin):  # type: ignore[misc]
        def __init__(self, detector: OnHub, metrics: Metrics) -> None:
            self.detector, self.metrics = detector, metrics

        def save_pretrained(self, save_directory: str | Path, **_: Any) -> None:
            self.detector.save_pretrained(save_directory, metrics=self.metrics)

    return Shared


def _download(repo_id: str, revision: str | None, local: bool, **options: Any) -> str:
    """The detector's file in the cache.

    The Hub's client tries a file five times, half a minute in all, where there is no network. So it is asked once
    whether the repository is there, and then for the file of that commit.
    """
    hub = _hub()
    unreachable: Exception | None = None
    if not local:
        try:
            revision = hub.HfApi(token=options["token"]).model_info(repo_id, revision=revision, timeout=TIMEOUT).sha
        except (hub.errors.HfHubHTTPError, hub.errors.HFValidationError) as error:  # it answers, and says no
            raise FileNotFoundError(_missing(repo_id, error)) from error
        except Exception as error:  # of requests, httpx or httpx2: what its client is made of differs by version
            unreachable, local, options["force_download"] = error, True, False
    try:
        return str(hub.hf_hub_download(repo_id, DETECTOR, revision=revision, **options, local_files_only=local))
    except hub.errors.EntryNotFoundError as error:
        raise FileNotFoundError(_missing(repo_id, unreachable or error)) from (unreachable or error)


def _missing(repo_id: str, error: Exception) -> str:
    return (
        f"detector: expected a folder or a repository of the Hugging Face Hub with {DETECTOR}; got {repo_id!r}, which "
        f"is no folder here and could not be had from the Hub ({str(error).splitlines()[0]}): check the name, the "
        "network and, for a private repository, the token"
    )
