import json
import shutil

import pytest
import torch
from torch import nn

from gmm_torch import FailureDetector

METRICS = {
    "alpha": 0.1,
    "n_fitted": 200,
    "classifier": {"test_accuracy": 0.912},
    "calibration": {"n": 66, "false_alarm_rate": {"0.05": 0.041}, "false_alarm_interval": {"0.05": [0.023, 0.067]}},
    "sources": {
        "errors": {
            "n": 30, "n_good": 310, "auroc": 0.86, "fpr_at_95_tpr": 0.4, "baselines": {"max_softmax": {"auroc": 0.9}},
        },
        "adversarial/pgd": {"n": 0, "auroc": None, "fpr_at_95_tpr": None, "baselines": {"max_softmax": {}}},
    },
    "seed": 3,
    "device": "cpu (x86_64)",
    "versions": {"torch": "2.13.0", "gmm_torch": "0.1.0"},
}  # fmt: skip


@pytest.fixture(scope="module")
def detector():
    x = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))
    classifier = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    return FailureDetector(classifier, n_components=2, alpha=0.1).fit(x[:200].split(50)).calibrate(x[200:].split(50))


@pytest.fixture(scope="module")
def metrics(detector):
    return METRICS | {"calibration": METRICS["calibration"] | {"n": len(detector.calibration)}}


def test_a_folder_holds_the_same_detector_and_no_pickle(detector, tmp_path):
    detector.preprocessing = {"mean": [0.5, 0.25], "interpolation": "bicubic", "keep_ratio": True}
    detector.save_pretrained(tmp_path / "shared")
    again = FailureDetector.from_pretrained(tmp_path / "shared", detector.classifier)
    assert again.preprocessing == detector.preprocessing
    told = "| preprocessing | mean [0.5, 0.25], interpolation bicubic, keep_ratio True |"
    assert told in (tmp_path / "shared" / "README.md").read_text()
    x = torch.randn(20, 6)
    assert torch.equal(again(x).p_value, detector(x).p_value)
    assert {path.name for path in (tmp_path / "shared").iterdir()} == {
        "detector.safetensors",
        "config.json",
        "README.md",
    }
    assert "What was measured\n\nNothing: measure" in (tmp_path / "shared" / "README.md").read_text()


def test_the_card_is_the_summary_of_what_was_measured(detector, metrics, tmp_path):
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    detector.save_pretrained(tmp_path / "shared", metrics=tmp_path / "metrics.json")
    card = (tmp_path / "shared" / "README.md").read_text()
    for line in (
        "| accuracy of the classifier | 91.2 % of 340 |",
        "| false alarms at 0.05 | 4.1 % (95 % interval 2.3 to 6.7 %) |",
        "| errors | 30 | 86.0 | 90.0 | 40.0 |",
        "| adversarial/pgd | 0 | – | – | – |",
        "AUROC and FPR in %; seed 3; cpu (x86_64); gmm_torch 0.1.0, torch 2.13.0.",
        "- The largest softmax probability tells these better: errors.",
        "- The attacks that were measured do not know the detector; one that does may pass it.",
        "FailureDetector.from_pretrained(",
    ):
        assert line in card
    assert json.loads((tmp_path / "shared" / "metrics.json").read_text()) == metrics
    hub = pytest.importorskip("huggingface_hub")
    assert hub.ModelCard.load(tmp_path / "shared" / "README.md").data.library_name == "gmm_torch"
    detector.save_pretrained(tmp_path / "shared")
    assert not (tmp_path / "shared" / "metrics.json").exists()  # of an earlier detector, for all that is known


def test_metrics_of_another_detector_are_refused(detector, metrics, tmp_path):
    with pytest.raises(ValueError, match=r"metrics: expected those of this detector.*\(0\.1, 300, "):
        detector.save_pretrained(tmp_path, metrics=metrics | {"n_fitted": 300})
    with pytest.raises(ValueError, match=r"metrics: expected the content .* got one without 'alpha'"):
        detector.save_pretrained(tmp_path, metrics={"auroc": 1.0})
    assert list(tmp_path.iterdir()) == []


def test_push_uploads_the_folder(detector, metrics, tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    made = {}

    def create_repo(self, repo_id, **options):
        made.update(options, made=repo_id)
        return hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def upload_folder(self, *, repo_id, folder_path, **options):
        made.update(options, uploaded=repo_id)
        shutil.copytree(folder_path, tmp_path / "hub")
        return "https://huggingface.co/commit"

    monkeypatch.setattr(hub.HfApi, "create_repo", create_repo)
    monkeypatch.setattr(hub.HfApi, "upload_folder", upload_folder)
    address = detector.push_to_hub("me/mine", metrics=metrics, private=True, commit_message="first")
    assert address == "https://huggingface.co/commit"
    assert (made["made"], made["uploaded"], made["private"], made["commit_message"]) == (
        "me/mine",
        "me/mine",
        True,
        "first",
    )
    assert {path.name for path in (tmp_path / "hub").iterdir()} == {
        "detector.safetensors", "config.json", "README.md", "metrics.json",
    }  # fmt: skip
    again = FailureDetector.from_pretrained(tmp_path / "hub", detector.classifier)
    assert again.n_fitted == detector.n_fitted


def test_a_repository_in_the_cache_serves_without_a_network(detector, tmp_path):
    pytest.importorskip("huggingface_hub")
    commit = "a" * 40
    kept = tmp_path / "models--me--mine"
    detector.save_pretrained(kept / "snapshots" / commit)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text(commit)
    offline = {"cache_dir": tmp_path, "local_files_only": True}
    found = FailureDetector.from_pretrained("me/mine", detector.classifier, **offline)
    assert len(found.calibration) == len(detector.calibration)
    with pytest.raises(ValueError, match="classifier: its layers or shapes"):
        FailureDetector.from_pretrained("me/mine", nn.Linear(6, 3), **offline)
    with pytest.raises(FileNotFoundError):
        FailureDetector.from_pretrained("me/other", detector.classifier, **offline)
