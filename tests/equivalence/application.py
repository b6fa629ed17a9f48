"""The application: Python, command, service and table say the same of the same images, however often they are run."""

import csv
import io
import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gmm_torch import FailureDetector
from tests.configuration import configure
from tests.equivalence.detector import small
from tests.equivalence.digits import images as digit_images
from tests.equivalence.rows import Row, Way, asked, near
from tests.equivalence.surroundings import folder
from trainers.callbacks.verdict_writer import VerdictWriter
from trainers.classifiers.build import build_classifier
from trainers.data.digits import digits
from trainers.data.errors import DataError
from trainers.data.image_files import decode
from trainers.evaluation.metrics_file import read_metrics, without_times
from trainers.main import main
from trainers.run.job import run_task
from trainers.run.run import Run
from trainers.tasks import evaluate
from trainers.tasks import run as run_module

N = 24  # images that are judged
QUIET = ("trainer=cpu", "trainer.enable_progress_bar=false", "ood=[]", "attack=[]")
SMALL = (
    *("data=digits", "mixture.n_components=3", "data.batch_size=128", *QUIET),
    *("classifier.width=16", "trainer.max_epochs=2", "data.calibration_every=4"),
)
OTHER = tuple("mixture.n_components=2" if each.startswith("mixture") else each for each in SMALL)  # the next job
Verdicts = list[tuple[int, float, float, bool]]
SHAPE = (1, 8, 8)
DIGITS = 6e-7  # the table of verdicts has six figures of a p-value, nine of a score


def run(place: Path, *options: str) -> Path:
    """A run of the application in a folder, without the pictures of its report, which take half of the time."""
    with patch.object(evaluate, "write_report"):
        run_task(configure(*options), place)
    return place


@cache
def trained() -> Path:
    """A run from training to report."""
    return run(folder("run"), *SMALL)


def known() -> tuple[str, str]:
    """The options that name its classifier and its detector."""
    found = trained()
    return f"classifier.checkpoint={found / 'classifier.safetensors'}", f"checkpoint={found / 'detector.safetensors'}"


@cache
def in_python() -> FailureDetector:
    """Its detector."""
    cfg = configure(*SMALL, known()[0])
    network = build_classifier(cfg.classifier, 10, SHAPE)
    return FailureDetector.load(trained() / "detector.safetensors", network)


@cache
def test_images() -> Tensor:
    """(N, 1, 8, 8) uint8, the first of the test split."""
    data = digits("test")
    return torch.stack([(data[i][0] * 255).round().byte() for i in range(N)])


@cache
def pictures() -> Path:
    """A folder of them as files."""
    place = folder("pictures")
    for i, image in enumerate(test_images()):
        Image.fromarray(image[0].numpy()).save(place / f"{i:03}.png")
    return place


def spoken(verdict: Any) -> Verdicts:
    """Of tensors."""
    columns = (verdict.prediction, verdict.score, verdict.p_value, verdict.accept)
    return list(zip(*(each.tolist() for each in columns), strict=True))


def by_python(size: int = N) -> Verdicts:
    """`detector(x)`, in batches."""
    return [row for x in (test_images().float() / 255).split(size) for row in spoken(in_python()(x))]


def scored(*options: str, place: Path | None = None) -> Path:
    """The CSV that `task=score` writes."""
    place = place or folder("scored")
    run(place, *SMALL, *known(), "task=score", f"input={pictures()}", *options)
    return place / "verdicts.csv"


def by_the_command(*options: str) -> Path:
    """What `gmm-torch` does with these words behind it."""
    place = folder("command")
    words = [*SMALL, *known(), "task=score", f"input={pictures()}", f"hydra.run.dir={place}", *options]
    with patch.object(sys, "argv", ["gmm-torch", *words]):
        main()
    return place / "verdicts.csv"


def read(path: Path) -> Verdicts:
    """Rows of a CSV of verdicts, by the name of the file."""
    with open(path, newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["path"])
    return [(int(r["prediction"]), float(r["score"]), float(r["p_value"]), r["accept"] == "True") for r in rows]


def evaluated(*options: str) -> Path:
    """The run that `task=evaluate` makes."""
    return run(folder("evaluated"), *SMALL, *known(), "task=evaluate", *options)


def of_the_table(place: Path) -> Verdicts:
    """Test images of scores.csv."""
    with open(place / "scores.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == "test"][:N]
    return [(int(r["prediction"]), float(r["score"]), float(r["p_value"]), r["accept"] == "True") for r in rows]


def listed(order: int) -> Verdicts:
    """A text file with one path a line, in another order."""
    paths = sorted(pictures().iterdir())
    rng = np.random.default_rng(order)
    rng.shuffle(paths)  # type: ignore[arg-type]
    place = folder("listed")
    (place / "list.txt").write_text("\n".join(map(str, paths)))
    return read(scored(f"input={place / 'list.txt'}"))


def ended_and_begun_again() -> bytes:
    """Scoring that ends after two batches, and goes on."""
    place, write, written = folder("scored"), VerdictWriter.on_predict_batch_end, []

    def write_or_die(self: VerdictWriter, *given: Any, **named: Any) -> None:
        if len(written) == 2:
            raise MemoryError
        written.append(given)
        write(self, *given, **named)

    with patch.object(VerdictWriter, "on_predict_batch_end", write_or_die):
        try:
            scored("data.batch_size=8", place=place)
        except MemoryError:
            assert not (place / "verdicts.csv").exists()
    assert len(written) == 2
    return scored("data.batch_size=8", place=place).read_bytes()


def twice_in_a_folder() -> bytes:
    """Scored again at the same place."""
    place = folder("scored")
    scored("data.batch_size=8", place=place)
    return scored("data.batch_size=8", place=place).read_bytes()


def png(image: Tensor) -> bytes:
    """A gray image as a file."""
    stream = io.BytesIO()
    Image.fromarray(image[0].numpy()).save(stream, "PNG")
    return stream.getvalue()


def by_http(found: FailureDetector, bodies: list[bytes], explain: bool, form: bool = False) -> list[dict[str, Any]]:
    """Answers of the service."""
    from fastapi.testclient import TestClient

    from trainers.serve import create_app

    answers = []
    with TestClient(create_app(found, SHAPE)) as client:
        while client.get("/health").status_code != 200:
            time.sleep(0.01)
        for body in bodies:
            given = {"files": {"image": ("x.png", body)}} if form else {"content": body}
            answer = client.post("/predict", params={"explain": explain}, **given)  # type: ignore[arg-type]
            assert answer.status_code == 200, answer.text
            answers.append(answer.json())
    return answers


def served(explain: bool, form: bool = False) -> Verdicts:
    """By HTTP."""
    answers = by_http(in_python(), [png(image) for image in test_images()], explain, form)
    return [(a["prediction"], a["score"], a["p_value"], a["accept"]) for a in answers]


def by_the_predictor() -> Verdicts:
    """What the service asks, in one batch."""
    from trainers.serve.predictor import Predictor, Question

    answers = Predictor(in_python())([Question(image, i % 2 == 0) for i, image in enumerate(test_images())])
    return [(a.record.prediction, a.record.score, a.record.p_value, a.record.accept) for a in answers]  # type: ignore[union-attr]


@cache
def at_the_edge() -> Tensor:
    """(90, 1, 8, 8) uint8, digits and noise."""
    noise = torch.randint(0, 256, (10, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return torch.cat([digit_images()[0][-80:], noise])


@cache
def served_at_the_edge(n: int) -> list[dict[str, Any]]:
    """Answers of the service with a detector for which alpha (n + 1) is a whole number."""
    return by_http(small(n), [png(image) for image in at_the_edge()], False)


def fitted_by(how: str) -> Verdicts:
    """The detector of the run, fitted again to the same images."""
    if how == "task":
        place = run(folder("fitted"), *SMALL, known()[0], "task=fit")
        found = FailureDetector.load(place / "detector.safetensors", in_python().classifier)
    else:
        cfg = configure(*SMALL, known()[0])
        data = Run(cfg, folder("run")).data
        data.setup()
        found = FailureDetector(in_python().classifier, n_components=3)
        found.fit(data.mixture_dataloader()).calibrate(data.calibration_dataloader())
    return spoken(found(test_images().float() / 255))


def results(place: Path) -> dict[str, Any]:
    """All numbers of a run, but for times and paths."""
    kept: Mapping[str, Any] = without_times(read_metrics(place / "metrics.json"))
    table = (place / "scores.csv").read_bytes()
    return {"metrics": json.loads(json.dumps(kept)), "scores": table}


def job(place: Path, cache_folder: Path | None) -> dict[str, Any]:
    """The job, with or without a cache."""
    more = [] if cache_folder is None else [f"paths.cache={cache_folder}"]
    return results(run(place, *SMALL, *more))


@cache
def used(*options: str) -> tuple[Path, Path]:
    """A run's folder and cache after a job."""
    place, kept = folder("run"), folder("cache")
    run(place, *options, f"paths.cache={kept}")
    return place, kept


def copies(*places: Path) -> list[Path]:
    """Copies of folders, for a job that writes there."""
    return [Path(shutil.copytree(place, folder("copy") / "folder")) for place in places]


def in_a_used_folder() -> dict[str, Any]:
    """A folder in which another job has run, without a cache."""
    (place,) = copies(used(*OTHER)[0])
    return job(place, None)


def in_a_used_folder_with_its_cache() -> dict[str, Any]:
    """A folder in which another job has run, with the cache of both."""
    place, kept = copies(*used(*OTHER))
    return job(place, kept)


def from_its_cache() -> dict[str, Any]:
    """The same job again, in another folder, which its cache answers."""
    return job(folder("run"), used(*SMALL)[1])


def from_the_cache_of_another_job() -> dict[str, Any]:
    """A job that finds its classifier and its features in the cache."""
    (kept,) = copies(used(*OTHER)[1])
    return job(folder("run"), kept)


def ended_in_the_midst(with_cache: bool) -> dict[str, Any]:
    """A job that ends after its training, and is begun again in its folder."""
    place, kept = folder("run"), folder("cache") if with_cache else None

    def die(_: Run) -> FailureDetector:
        raise MemoryError

    with patch.object(run_module, "fit_detector", die):
        try:
            job(place, kept)
        except MemoryError:
            assert not (place / "metrics.json").exists()
    return job(place, kept)


def copied(name: str) -> dict[str, Any]:
    """The run's classifier and detector, evaluated where they were moved to."""
    place = folder("moved")
    for file in ("classifier.safetensors", "detector.safetensors"):
        shutil.copyfile(trained() / file, place / f"{name}-{file}")
    options = (f"classifier.checkpoint={place / f'{name}-classifier.safetensors'}",)
    found = run(
        folder("evaluated"), *SMALL, *options, f"checkpoint={place / f'{name}-detector.safetensors'}", "task=evaluate"
    )
    return {"scores": of_the_table(found)}


@cache
def photograph() -> np.ndarray:
    """(8, 8) uint8: a digit that has every kind of gray."""
    return (digit_images()[0][3, 0].numpy().astype(int) * 3 // 4 + np.arange(64).reshape(8, 8)).astype(np.uint8)


def file_of(kind: str) -> Path:
    """The picture as a file of some kind."""
    gray, place = photograph(), folder("file")
    image = Image.fromarray(gray)
    names = {"bmp": "x.bmp", "ppm": "x.ppm", "pgm": "x.pgm", "tiff": "x.tif", "no ending": "x"}
    path = place / names.get(kind, "x.png")
    if kind == "rgb":
        image = image.convert("RGB")
    elif kind == "rgba":
        image = image.convert("RGBA")
    elif kind == "palette":
        image = image.convert("P")
    elif kind == "gray with alpha":
        image = image.convert("LA")
    elif kind == "16 bits":
        image = Image.fromarray(gray.astype(np.uint16) * 257)
    elif kind == "32 bits":
        image, path = Image.fromarray(gray.astype(np.int32) * 16_843_009 // 2), place / "x.tif"
    elif kind == "float tiff":
        image, path = Image.fromarray(gray.astype(np.float32) / 255), place / "x.tif"
    elif kind == "webp":
        path = place / "x.webp"
        image.convert("RGB").save(path, lossless=True)
        return path
    image.save(path, "PNG" if kind == "no ending" else None)
    return path


def seen(kind: str) -> Tensor:
    """What the classifier is given; what is refused, with a reason, is given nothing, which is right too."""
    path = file_of(kind)
    try:
        return in_steps(decode(str(path), SHAPE))
    except DataError:
        return torch.from_numpy(photograph())[None]


def in_steps(pixels: Tensor) -> Tensor:
    """Pixels of either type in steps of an 8-bit image."""
    return pixels * 255 if pixels.is_floating_point() else pixels


def sent(kind: str) -> Tensor:
    """What the service makes of it."""
    from trainers.serve.images import ImageRejected, read_image

    try:
        return in_steps(read_image(file_of(kind).read_bytes(), SHAPE, 10_000))
    except ImageRejected:
        return torch.from_numpy(photograph())[None]


def names_in_the_table(endings: tuple[str, ...]) -> list[str]:
    """Files of a folder that get a row."""
    place = folder("all")
    for i, ending in enumerate(endings):
        Image.fromarray(photograph()).save(place / f"{i}{ending}", "GIF" if ending == ".gif" else "PNG")
    (place / "torn.png").write_bytes(png(test_images()[0])[:60])
    path = scored(f"input={place}")
    with open(path, newline="") as file:
        return sorted(Path(row["path"]).name for row in csv.DictReader(file))


def alarms(place: Path, how: str) -> float:
    """Share of the test images that are refused at 0.05."""
    if how == "metrics":
        return float(read_metrics(place / "metrics.json")["calibration"]["false_alarm_rate"]["0.05"])
    with open(place / "scores.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == "test"]
    return sum(row["accept"] == "False" for row in rows) / len(rows)


def table() -> list[Row]:
    """The rows of this theme."""
    ask = partial(asked, "application")
    web = ("fastapi", "prometheus_client", "multipart")
    rows: list[Row] = []
    rows += ask(
        f"verdicts on {N} images",
        {
            "Python": by_python,
            "Python, one by one": near(lambda: by_python(1), 1e-4),
            "task=score": near(lambda: read(scored()), DIGITS),
            "task=score, one by one": near(lambda: read(scored("data.batch_size=1")), 1e-4),
            "task=score, batches of 256": near(lambda: read(scored("data.batch_size=256")), 1e-4),
            "task=score, two workers": near(lambda: read(scored("data.num_workers=2")), 1e-4),
            "task=score, a list in another order": near(lambda: listed(0), 1e-4),
            "task=score, class names given": near(lambda: read(scored("task.class_names=[0,1,2,3,4,5,6,7,8,9]")), 1e-4),
            "the command": near(lambda: read(by_the_command()), DIGITS),
            "task=score, a page": near(lambda: read(scored("page=3")), 1e-4),
            "HTTP": near(lambda: served(False), 1e-4, needs=web),
            "HTTP, explained": near(lambda: served(True), 1e-4, needs=web),
            "HTTP, a form": near(lambda: served(False, form=True), 1e-4, needs=web),
            "the service's predictor": near(by_the_predictor, 1e-4, needs=web),
            "the run's own table": near(lambda: of_the_table(trained()), 1e-4),
            "task=evaluate": near(lambda: of_the_table(evaluated()), 1e-4),
            "task=evaluate, batches of 7": near(lambda: of_the_table(evaluated("data.batch_size=7")), 1e-4),
            "task=evaluate, two workers": near(lambda: of_the_table(evaluated("data.num_workers=2")), 1e-4),
            "task=evaluate of moved files": near(lambda: copied("moved")["scores"], 1e-4),
            "task=fit": near(lambda: fitted_by("task"), 1e-4),
            "fit and calibrate in Python": near(lambda: fitted_by("python"), 1e-4),
        },
    )
    rows += ask(
        "the bytes of a table of verdicts",
        {
            "at once": lambda: scored("data.batch_size=8").read_bytes(),
            "again in the same folder": twice_in_a_folder,
            "ended after two batches, begun again": ended_and_begun_again,
            "two workers": lambda: scored("data.batch_size=8", "data.num_workers=2").read_bytes(),
        },
    )
    for n in (19, 199):
        rows += ask(
            f"accepted or refused, {n} to calibrate, alpha on the edge",
            {
                "Python": lambda n=n: small(n)(at_the_edge().float() / 255).accept.tolist(),
                "HTTP, accept": Way(lambda n=n: [a["accept"] for a in served_at_the_edge(n)], needs=web),
                "HTTP, verdict": Way(
                    lambda n=n: [a["verdict"] == "accepted" for a in served_at_the_edge(n)], needs=web
                ),
            },
        )
    rows += ask(
        "a job",
        {
            "in a folder of its own": lambda: results(trained()),
            "in the folder of another job": in_a_used_folder,
            "with a cache": lambda: results(used(*SMALL)[0]),
            "from its cache": from_its_cache,
            "from the cache of another job": from_the_cache_of_another_job,
            "in the folder of another job, with its cache": in_a_used_folder_with_its_cache,
            "ended after training, begun again": lambda: ended_in_the_midst(False),
            "ended after training, begun again with a cache": lambda: ended_in_the_midst(True),
        },
    )
    rows += ask(
        "the share of false alarms",
        {
            "metrics.json": lambda: alarms(trained(), "metrics"),
            "scores.csv": near(lambda: alarms(trained(), "scores"), 1e-12),
        },
    )
    kinds = (
        "rgb",
        "rgba",
        "palette",
        "gray with alpha",
        "bmp",
        "pgm",
        "tiff",
        "webp",
        "no ending",
        "16 bits",
        "32 bits",
        "float tiff",
    )
    ways: dict[str, Callable[[], Any] | Way] = {"8-bit gray": lambda: torch.from_numpy(photograph())[None]}
    for kind in ("gray", *kinds):
        atol = 1e-3 if kind in ("16 bits", "32 bits", "float tiff") else 0  # of 255: what is scaled is rounded
        ways[f"{kind}, read"] = near(lambda k=kind: seen(k), atol, 0)
        ways[f"{kind}, sent"] = near(lambda k=kind: sent(k), atol, 0, needs=web)
    rows += ask("the pixels of a picture", ways)
    endings = (".png", ".PNG", ".gif", "", ".webp", ".pgm")
    rows += ask(
        "the files of a folder that get a row",
        {
            "all": lambda: sorted([f"{i}{ending}" for i, ending in enumerate(endings)] + ["torn.png"]),
            "task=score": lambda: names_in_the_table(endings),
        },
    )
    return rows
