"""A detector in a folder or a repository of the Hugging Face Hub: a safetensors file, and a page that describes it."""

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
        from huggingface_hub import ModelHubMixin

        # a class of an optional package can be no base of a detector
        class Shared(ModelHubMixin):  # type: ignore[misc]
            def save_pretrained(shared, save_directory: str | Path, **_: Any) -> None:
                self.save_pretrained(save_directory, metrics=metrics)

        return str(Shared().push_to_hub(repo_id, **options))

    @classmethod
    def from_pretrained(
        cls,
        folder_or_repo: str | os.PathLike[str],
        classifier: nn.Module,
        *,
        strict: bool = True,
        adapter: Adapter | None = None,
        **options: Any,
    ) -> Self:
        """The detector of a folder or of a repository of the Hub, for `classifier`; see `FailureDetector.load`.

        Args:
            folder_or_repo: a folder that `save_pretrained` wrote, or "user/name".
            classifier, strict, adapter: see `FailureDetector.load`.
            **options: of `huggingface_hub.hf_hub_download`: revision, token, cache_dir, local_files_only, ...

        Raises:
            FileNotFoundError: a folder without a detector, or neither a folder nor a repository that can be reached.
            ImportError: a repository, and huggingface_hub is not installed.
            FileFormatError, ValueError: see `FailureDetector.load`.
        """
        path = Path(folder_or_repo) / DETECTOR
        if not path.parent.is_dir():
            from huggingface_hub import hf_hub_download

            path = Path(hf_hub_download(str(folder_or_repo), DETECTOR, **options))
        found = cast("type[FailureDetector]", cls).load(path, classifier, strict=strict, adapter=adapter)
        return cast(Self, found)
