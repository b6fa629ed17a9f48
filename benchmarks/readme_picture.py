"""Draws the README's picture, verdicts on the demo's images: run `gmm-torch experiment=demo` first, or `make readme`,
which does both."""

import io
from collections.abc import Mapping
from typing import Any

import foolbox
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from pages import ROOT
from torch import Tensor, nn

from gmm_torch import FailureDetector
from trainers.classifiers.build import build_classifier
from trainers.data.digits import digits
from trainers.data.noise import uniform_noise
from trainers.data.patches import patches
from trainers.data.pixels import as_unit
from trainers.report.figures.style import ERRORS, INK, OOD, RC

RUN, PICTURE = ROOT / "runs" / "demo", ROOT / "docs" / "images" / "verdicts.svg"
SHAPE = (1, 8, 8)
N_EACH = 2  # the first of each kind, whatever the verdict on them
BUDGET = 0.15  # of the attack, as in the demo


def kinds(classifier: nn.Module) -> dict[str, Tensor]:
    """Kind -> images (N_EACH, 1, 8, 8): test images that the classifier gets right or wrong, and other failures."""
    test = digits("test")
    images, labels = as_unit(test.images), test.targets
    with torch.no_grad():
        right = classifier(images).argmax(-1) == labels
    model = foolbox.PyTorchModel(classifier, bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.LinfPGD(steps=20, rel_stepsize=0.1, random_start=False)
    _, attacked, fooled = attack(model, images[right][:50], labels[right][:50], epsilons=BUDGET)
    return {
        "correct": images[right][:N_EACH],
        "misclassified": images[~right][:N_EACH],
        "attacked": attacked[fooled][:N_EACH],
        "photographs": torch.stack([image for image, _ in patches(SHAPE, 0, n_images=N_EACH)]),
        "noise": as_unit(uniform_noise(SHAPE, 0, n_images=N_EACH).images),
    }


def picture(detector: FailureDetector, images: Mapping[str, Tensor]) -> Figure:
    """The images of each kind, and under each what the classifier and the detector say."""
    with rc_context(RC):
        figure = Figure(figsize=(8.4, 1.45), layout="constrained")
        places = iter(figure.subplots(1, len(images) * N_EACH))
        for kind, batch in images.items():
            verdict = detector(batch)
            for i, image in enumerate(batch[:, 0]):
                place = next(places)
                _draw(place, image, int(verdict.prediction[i]), float(verdict.p_value[i]), bool(verdict.accept[i]))
                place.set_title(kind if i == 0 else "", loc="left", color=INK, fontweight="bold")
    return figure


def _draw(place: Any, image: Tensor, prediction: int, p_value: float, accept: bool) -> None:
    place.imshow(image, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    place.set(xticks=[], yticks=[])
    place.grid(visible=False)
    colour = OOD if accept else ERRORS
    for spine in place.spines.values():
        spine.set(visible=True, color=colour, linewidth=2)
    place.set_xlabel(f"“{prediction}”, {'accepted' if accept else 'refused'}\np = {p_value:.3f}", color=colour)


def main() -> None:
    """Write the picture."""
    weights = {"_target_": "trainers.classifiers.small_cnn.SmallCNN", "num_classes": None, "in_channels": None}
    classifier = build_classifier({**weights, "checkpoint": str(RUN / "classifier.safetensors")}, 10, SHAPE).eval()
    figure = picture(FailureDetector.load(RUN / "detector.safetensors", classifier), kinds(classifier))
    text = io.StringIO()
    with rc_context(RC):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None}, facecolor="white")
    PICTURE.write_text("\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n", encoding="utf-8")
    print(f"{PICTURE.relative_to(ROOT)}: written")


if __name__ == "__main__":
    main()
