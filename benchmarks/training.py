"""The mixture in training: is it as good online as fitted afterwards? Does a likelihood term, or spectral norm, help?

    python benchmarks/training.py [--data digits fashion_mnist] [--skip-existing]

Every classifier is trained as the configs say (`classifier=small_cnn`, `optimizer=adamw`), with fewer images and
epochs where `SETTINGS` says so. All are then judged alike: ten full components fitted to the penultimate features of
the mixture split, the score log p(z). Right test answers are told from wrong ones (`errors`), test images from
out-of-distribution ones, images that are classified rightly from the same after an attack that succeeds (FGSM;
Goodfellow et al. 2015).

Which lambda stands for a way is chosen among those whose validation accuracy, averaged over the seeds, is within half a
point of that of lambda = 0, by the mean log-likelihood of the standardised validation features, highest: failures are
not looked at.

The online mixture is compared on the classifier with lambda = 0 of every seed: as the training left it, and after exact
passes over the mixture split, to which the mixture that judges is fitted afterwards.

A training in which EM's gradient is not found ends there, and is recorded with the reason: it is not judged.

Writes `benchmarks/results/training.json` after each classifier, and the tables of `docs/training.md`.
"""

import argparse
import json
import logging
import platform
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning
import torch
from configuration import composed
from hydra.utils import instantiate
from omegaconf import DictConfig
from pages import save
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from training_page import write_page

from gmm_torch import GaussianMixture
from gmm_torch.detector import FeatureExtractor
from gmm_torch.errors import SolverError
from gmm_torch.lightning.online_mixture import OnlineMixtureMonitor
from trainers.classifiers.build import build_classifier
from trainers.data.ood import build_ood
from trainers.evaluation.detection_metrics import detection_metrics
from trainers.run.training import new_module

RESULTS = Path(__file__).parent / "results" / "training.json"
SETTINGS: dict[str, dict[str, Any]] = {
    "digits": {
        "overrides": [
            "data=digits",
            "ood=[patches]",
            "attack=[digits]",
            "data.n_labelled=200",
            "trainer.max_epochs=30",
        ],
        "seeds": 5,
        "images": None,
        "memory": 2000,  # ten epochs
    },
    "fashion_mnist": {
        "overrides": [
            "data=fashion_mnist",
            "ood=[mnist]",
            "attack=[fgsm]",
            "+classifier.width=32",
            "trainer.max_epochs=3",
        ],
        "seeds": 2,
        "images": 10_000,
        "memory": 6400,
    },
}
WAYS: dict[str, list[str]] = {
    "online": [],
    "gradient": [],
    "implicit": [
        "training.term.n_components=3",
        "training.term.covariance_type=spherical",
        "training.term.reg_covar=0.1",
    ],
}
WEIGHTS = {"online": (0.1, 0.3, 1), "gradient": (0.3,), "implicit": (0.3,)}
VARIANTS: dict[str, list[str]] = {
    "plain": [],
    **{
        f"{way} {weight:g}": [
            "training=likelihood", f"training.term.mode={way}", f"training.term.weight={weight:g}", *WAYS[way],
        ]
        for way, weights in WEIGHTS.items() for weight in weights
    },
    "spectral norm": ["classifier.spectral_norm=true"],
}  # fmt: skip
N_COMPONENTS, REG_COVAR = 10, 1e-2
LIMIT = 1000  # test images, and out-of-distribution images


def configure(data: str, variant: str, seed: int, extra: list[str]) -> DictConfig:
    """The config of one classifier."""
    settings = SETTINGS[data]
    overrides = [*settings["overrides"], *VARIANTS[variant], f"seed={seed}", f"limit.ood={LIMIT}", *extra]
    if "training=likelihood" in overrides:
        overrides.append(f"training.term.window={settings['memory']}")
    return composed(*overrides)


def outputs(extractor: FeatureExtractor, loader: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, penultimate features and labels of a loader's images."""
    parts = []
    with torch.inference_mode():
        for images, labels in loader:
            found = extractor(images)
            parts.append((found.own_logits, next(iter(found.layers.values()))[:, 0], labels))
    logits, features, labels = (torch.cat(part) for part in zip(*parts, strict=True))
    return logits, features, labels


def fitted(features: Tensor, seed: int) -> GaussianMixture:
    """The mixture that judges, on features of the mixture split or the training images."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return GaussianMixture(N_COMPONENTS, features.shape[1]).fit(features, reg_covar=REG_COVAR, seed=seed)


def auroc(good: Tensor, failures: Tensor) -> float | None:
    """In [0, 1]; None where one of the two is missing."""
    return detection_metrics(good, failures)["auroc"] if len(good) and len(failures) else None


def judged(score: dict[str, Tensor], right: Tensor) -> dict[str, float | None]:
    """AUROC of each source by one score; attacked images against those that were right before."""
    good = score["test"]
    found = {"errors": auroc(good[right], good[~right]), "ood": auroc(good, score["ood"])}
    if "attack" in score:
        found["attack"] = auroc(good[right], score["attack"])
    return found


class Study:
    """One data set; loaded once."""

    def __init__(self, name: str, extra: list[str]) -> None:
        self.name, self.extra = name, extra
        cfg = configure(name, "plain", 0, extra)
        self.shape = instantiate(cfg.data).image_shape

    def train(self, variant: str, seed: int) -> dict[str, Any]:
        """Train one classifier, and judge it; where EM's gradient was not found, the reason and the step."""
        cfg = configure(self.name, variant, seed, self.extra)
        lightning.seed_everything(seed, verbose=False)
        data = instantiate(cfg.data)
        if (limit := SETTINGS[self.name]["images"]) is not None:
            data.indices["train"] = data.indices["train"][:limit]
        classifier = build_classifier(cfg.classifier, data.num_classes, data.image_shape)
        module = new_module(cfg.training, classifier, data.num_classes)
        monitor = None
        if variant == "plain":
            memory = SETTINGS[self.name]["memory"]
            monitor = OnlineMixtureMonitor(N_COMPONENTS, reg_covar=REG_COVAR, window=memory, n_images=0)
        with tempfile.TemporaryDirectory() as folder:
            trainer = instantiate(
                cfg.trainer, default_root_dir=folder, callbacks=[monitor] if monitor else [], accelerator="cpu",
                enable_checkpointing=False, enable_progress_bar=False,
            )  # fmt: skip
            start = time.process_time()
            try:
                trainer.fit(module, datamodule=data)
                failure = None
            except SolverError as error:
                failure = str(error)
            seconds = time.process_time() - start
        run = {"data": self.name, "variant": variant, "seed": seed, "seconds": round(seconds, 1)}
        if failure is not None:
            return run | {"failure": failure, "steps": trainer.global_step}
        return run | self.judge(cfg, data, classifier.eval(), monitor)

    def judge(
        self, cfg: DictConfig, data: Any, classifier: nn.Module, monitor: OnlineMixtureMonitor | None
    ) -> dict[str, Any]:
        """Accuracy, likelihood of validation features, and AUROCs."""
        extractor = FeatureExtractor(classifier)
        parts = {
            "validation": outputs(extractor, data.val_dataloader()),
            "mixture": outputs(extractor, _first(data.mixture_dataloader(), 5000)),
            "test": outputs(extractor, _first(data.test_dataloader(), LIMIT)),
        }
        (ood,) = build_ood(cfg.ood, data.image_shape, cfg.seed, LIMIT).values()
        parts["ood"] = outputs(extractor, DataLoader(ood, batch_size=256))
        attack = instantiate(cfg.attack.fgsm)
        attack.n_images = min(attack.n_images, 200)
        result = attack.run(
            classifier, _first(data.test_dataloader(), LIMIT), device=torch.device("cpu"), seed=cfg.seed
        )
        if len(result.images):
            pairs = torch.utils.data.TensorDataset(result.images, result.label)
            parts["attack"] = outputs(extractor, DataLoader(pairs, batch_size=256))
        logits, _, labels = parts["test"]
        right = logits.argmax(1) == labels
        mixture = fitted(parts["mixture"][1], cfg.seed)
        sources = [name for name in ("test", "ood", "attack") if name in parts]
        by_density = {name: mixture.log_prob(parts[name][1]) for name in sources}
        by_softmax = {name: parts[name][0].softmax(1).amax(1) for name in sources}
        found: dict[str, Any] = {
            "n_test": len(right),
            "n_errors": int((~right).sum()),
            "n_ood": len(parts["ood"][0]),
            "n_attacked": len(result.images),
            "attack_success": result.success_rate,
            "accuracy": float(right.double().mean()),
            "validation_accuracy": float((parts["validation"][0].argmax(1) == parts["validation"][2]).double().mean()),
            "validation_log_likelihood": standardised_score(parts["mixture"][1], parts["validation"][1], cfg.seed),
            "density": judged(by_density, right),
            "softmax": judged(by_softmax, right),
        }
        if monitor is not None:
            online = {source: monitor.online.mixture.log_prob(parts[source][1]) for source in sources}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                monitor.online.finish(parts["mixture"][1], 100)
            exact = {source: monitor.online.mixture.log_prob(parts[source][1]) for source in sources}
            found["online"] = {"online": judged(online, right), "exact passes": judged(exact, right)}
        return found


def standardised_score(fitting: Tensor, held_out: Tensor, seed: int) -> float:
    """Mean log-likelihood a dimension of held-out features, in units of each feature's deviation."""
    location, scale = fitting.mean(0), fitting.std(0)
    varies = scale > 1e-3 * scale.max()
    fitting, held_out = (((z - location) / scale)[:, varies] for z in (fitting, held_out))
    return fitted(fitting, seed).score(held_out) / fitting.shape[1]


def _first(loader: Any, n: int) -> Any:
    """A loader of the first n images."""
    dataset = loader.dataset
    return DataLoader(Subset(dataset, range(min(n, len(dataset)))), batch_size=256)


def main() -> None:
    """Train and judge all that there is not yet; write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="*", default=list(SETTINGS))
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, default=None, help="instead of the settings' number")
    parser.add_argument("--skip-existing", action="store_true")
    parser.add_argument("--override", nargs="*", default=[], help="of the config, where your data is for instance")
    options = parser.parse_args()
    logging.disable(logging.INFO)
    old = json.loads(RESULTS.read_text())["runs"] if RESULTS.exists() else []
    runs = {(run["data"], run["variant"], run["seed"]): run for run in old}
    for name in options.data:
        study = Study(name, options.override)
        for seed in range(options.seeds or SETTINGS[name]["seeds"]):
            for variant in options.variants:
                if options.skip_existing and (name, variant, seed) in runs:
                    continue
                run = study.train(variant, seed)
                runs[name, variant, seed] = run
                print(json.dumps(run), flush=True)
                write(list(runs.values()))
    write_page()


def write(runs: list[dict[str, Any]]) -> None:
    """The JSON file."""
    versions = {"python": platform.python_version()} | {p: version(p) for p in ("torch", "lightning", "foolbox")}
    found = {"runs": runs, "device": platform.machine(), "threads": torch.get_num_threads(), "versions": versions}
    save(RESULTS, found)


if __name__ == "__main__":
    main()
