"""Judging images without labels: a folder or a list, again after a kill, with a page and an alarm."""

import csv
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gmm_torch.errors import DriftError
from gmm_torch.lightning.drift import DriftWarning
from gmm_torch_command import find_application
from tests.configuration import configure
from tests.processes import application, started
from trainers.callbacks.verdict_writer import VerdictWriter
from trainers.data.errors import DataNotFoundError
from trainers.data.file_times import file_times
from trainers.data.resize import Resize
from trainers.evaluation.drift import READ_BY_FOLDER
from trainers.run.job import run_task
from trainers.run.model import load_model
from trainers.run.run import Run

NETWORK = """
from torch import nn


class MyNet(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        body = [nn.Conv2d(3, width, 3, 2), nn.ReLU(), nn.Conv2d(width, width, 3, 2), nn.ReLU()]
        self.body = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(width, 2)

    def forward(self, x):
        return self.head(self.body(x))
"""


def write_images(folder: Path, n: int, low: int, seed: int) -> None:
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    for i in range(n):
        pixels = torch.randint(low, low + 128, (12, 12, 3), dtype=torch.uint8, generator=generator)
        Image.fromarray(pixels.numpy()).save(folder / f"{i:03}.{'png' if i % 2 else 'jpg'}", quality=95)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A user's folder: a package with a network, its weights, images of two classes, a detector, images to score."""
    place = tmp_path_factory.mktemp("user")
    (place / "their_pkg").mkdir()
    (place / "their_pkg" / "__init__.py").write_text(NETWORK)
    for name, low in (("bright", 128), ("dark", 0)):
        write_images(place / "images" / name, 150, low, low)
        write_images(place / "new" / name, 10, low, low + 1)
    Image.new("RGB", (12, 12), (255, 0, 0)).save(place / "new" / "red.png")
    (place / "new" / "torn.png").write_bytes((place / "new" / "dark" / "001.png").read_bytes()[:200])
    sys.path.insert(0, str(place))
    try:
        from their_pkg import MyNet  # type: ignore[import-not-found]

        torch.manual_seed(0)
        torch.save(MyNet().state_dict(), place / "net.pt")
        run_task(configure(*options(place), "score=log_likelihood", "task=fit"), place / "fit")
        yield place
    finally:
        sys.path.remove(str(place))


def options(place: Path) -> list[str]:
    return [
        "classifier._target_=their_pkg.MyNet",
        f"classifier.checkpoint={place / 'net.pt'}",
        "data=image_folder",
        f"data.root={place / 'images'}",
        "data.image_shape=[3,12,12]",
        "data.calibration_every=3",
        "data.batch_size=4",
        "mixture.n_components=2",
        "trainer.accelerator=cpu",
        "trainer.enable_progress_bar=false",
    ]


def scoring(place: Path, *more: str) -> list[str]:
    return [*options(place), "task=score", f"checkpoint={place / 'fit' / 'detector.safetensors'}", *more]


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def once(place):
    """The folder scored without disturbance, with a page."""
    run_task(configure(*scoring(place, f"input={place / 'new'}", "page=5")), place / "once")
    return place / "once"


def test_every_image_has_a_verdict_and_what_cannot_be_read_is_refused(once):
    found = rows(once / "verdicts.csv")
    assert len(found) == 22
    assert [Path(row["path"]).name for row in found[:3]] == ["red.png", "torn.png", "000.jpg"]
    assert [row["prediction"] in ("bright", "dark") for row in found] == [i != 1 for i in range(22)]
    assert {found[1][name] for name in ("prediction", "score", "p_value", "component")} == {""}
    assert all((row["accept"] == "True") == (float(row["p_value"]) > 0.05) for row in found if not row["error"])
    assert sum(row["accept"] == "True" for row in found[2:]) >= 15
    assert found[0]["accept"] == found[1]["accept"] == "False"
    assert [bool(row["error"]) for row in found] == [i == 1 for i in range(22)]


@pytest.mark.parametrize("page", ["refused.html", "true", "-1"])
def test_a_page_that_is_no_number_is_an_error_before_an_image_is_read(place, page, tmp_path):
    with pytest.raises(ValueError, match="page: expected a number of images"):
        run_task(configure(*scoring(place, f"input={place / 'new'}", f"page={page}")), tmp_path)
    assert not list(tmp_path.glob("verdicts*"))


def test_the_page_of_several_inputs_is_called_after_all_and_expects_less_than_one_refusal_of_few_images(
    place, tmp_path
):
    files = [place / "new" / name for name in ("red.png", "torn.png")]
    run_task(configure(*scoring(place, f"input=[{files[0]},{files[1]}]", "page=1")), tmp_path)
    page = (tmp_path / "verdicts.html").read_text()
    assert f'<p class="kicker">{files[0]}, {files[1]}</p>' in page
    assert "Of 1 images like the calibration images at most about 0.05 would be refused" in page


def test_the_page_shows_the_refused_images_and_why(once):
    page = (once / "verdicts.html").read_text()
    n = sum(row["accept"] == "False" for row in rows(once / "verdicts.csv"))
    assert f"{n - 1} of 21 images refused; 1 more can&#39;t be read" in page
    assert "at most about 1 would be refused: 5\u00a0% of them, on average over calibration sets." in page
    assert page.count('<article class="reason">') == min(n - 1, 5)
    assert "red.png" in page
    assert "In the mixture " in page
    assert "torn.png" in page
    assert "<svg" in page


def test_the_terminal_names_and_counts_the_files_that_cannot_be_read(place, tmp_path, capsys):
    folder = tmp_path / "new"
    folder.mkdir()
    shutil.copy(place / "new" / "dark" / "001.png", folder / "a.png")
    for i in range(5):
        (folder / f"torn{i}.png").write_bytes(b"torn")
    run_task(configure(*scoring(place, f"input={folder}")), tmp_path / "run")
    named = ", ".join(str(folder / f"torn{i}.png") for i in range(3))
    assert f"5 of them because they can't be read ({named} and 2 more)" in capsys.readouterr().out


def test_images_that_are_prepared_in_another_way_are_told_once_in_terminal_page_and_facts(
    once, place, tmp_path, caplog, capsys
):
    asked = scoring(place, f"input={place / 'new' / 'bright'}", "page=1")
    run_task(configure(*asked, "data.source.crop_share=0.5", "data.source.keep_ratio=false"), tmp_path)
    said = (
        "preprocessing: expected crop_share 1.0, keep_ratio True, as the detector was fitted; got crop_share 0.5, "
        "keep_ratio False. The same image then has another p-value, and any share of good images may be refused, not "
        "alpha of them: set data.source.crop_share=1.0 data.source.keep_ratio=True, or fit a detector with what is set "
        "now"
    )
    assert (capsys.readouterr().out + caplog.text).count(said) == 1
    assert (tmp_path / "verdicts.html").read_text().count(f"{said}.") == 1
    facts = json.loads((tmp_path / "verdicts.facts.json").read_text())
    assert facts["image_shape"] == [3, 12, 12]
    assert facts["calibration"]["in_words"].startswith("scores of 80 calibration inputs")
    found = facts["preprocessing"]
    moments = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    assert found["fitted"] == {**moments, "crop_share": 1.0, "interpolation": "bilinear", "keep_ratio": True}
    assert found["now"] == {**moments, "crop_share": 0.5, "interpolation": "bilinear", "keep_ratio": False}
    assert said in found["warning"]
    alike = json.loads((once / "verdicts.facts.json").read_text())["preprocessing"]
    assert (alike["now"], alike["warning"]) == (alike["fitted"], "")
    with pytest.raises(ValueError, match=r"got mean \[0.5, 0.5, 0.5\].*: set data.mean=\[0.485,0.456,0.406\]"):
        run_task(configure(*asked, "data.mean=[0.5,0.5,0.5]"), tmp_path / "other")


def test_files_of_another_size_than_the_calibration_images_are_told_in_terminal_and_page(place, once, tmp_path, caplog):
    assert "image size: expected" not in (once / "verdicts.html").read_text()
    (tmp_path / "large").mkdir()
    Image.new("RGB", (48, 40), (255, 0, 0)).save(tmp_path / "large" / "red.png")
    run_task(configure(*scoring(place, f"input={tmp_path / 'large'}", "page=5")), tmp_path)
    said = "image size: expected 12 x 12 pixels, as of the calibration images; got 40 x 48"
    assert said in caplog.text
    assert said in (tmp_path / "verdicts.html").read_text()


def test_data_that_nothing_resizes_leave_image_files_to_the_detectors_own_preprocessing(place, tmp_path, caplog):
    """CIFAR-10's arrays have one size; their configuration has no `data.source.crop_share` to set."""
    asked = scoring(place, "data=cifar10", "data.image_shape=[3,12,12]", "data.mean=[0.485,0.456,0.406]")
    asked += ["data.std=[0.229,0.224,0.225]", "task.class_names=[bright,dark]", "input=x"]
    cfg = configure(*[each for each in asked if not each.startswith("data.root=")])
    detector = load_model(Run(cfg, tmp_path), "score", ["bright", "dark"]).detector
    assert list(detector.class_names) == ["bright", "dark"]  # those of the folders, from its file
    detector.preprocessing |= {"crop_share": 0.5, "interpolation": "bicubic"}
    cfg.checkpoint = str(tmp_path / "detector.safetensors")
    detector.save(cfg.checkpoint)
    assert load_model(Run(cfg, tmp_path), "score", ["bright", "dark"]).resize == Resize(0.5, "bicubic")
    assert "preprocessing: expected" not in caplog.text


@pytest.mark.parametrize("names", ["['hell','d\u00fcster']", "names.txt"])
def test_with_class_names_the_data_need_not_be_there(once, place, tmp_path, names):
    """The same verdicts, under the names that are given as a list or in a file."""
    if names == "names.txt":
        names = tmp_path / names
        names.write_text("hell\nd\u00fcster\n", encoding="utf-8")
    somewhere_else = [option for option in scoring(place) if not option.startswith("data.root=")]
    output = tmp_path / "verdicts.csv"
    named = (f"task.class_names={names}", f"input={place / 'new'}", f"output={output}", "page=2")
    run_task(configure(*somewhere_else, *named), tmp_path / "run")
    with_data = (once / "verdicts.csv").read_text()
    assert output.read_text() == with_data.replace(",bright,", ",hell,").replace(",dark,", ",d\u00fcster,")
    n = sum(row["accept"] == "False" for row in rows(output))
    assert f"{n - 1} of 21 images refused" in output.with_suffix(".html").read_text()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task.class_names=[a,b,c]"], "3 classes"),
        (["task.class_names=[a,b]", "data.image_shape=null"], "set data.image_shape="),
        (["classifier.checkpoint=null"], "task=score needs the detector's classifier: set classifier.checkpoint="),
        (["checkpoint=null"], "task=score needs a fitted detector: set checkpoint="),
        (["input=null"], "set input="),
    ],
)
def test_a_mistake_is_told_before_work_starts(place, tmp_path, overrides, message):
    with pytest.raises(ValueError, match=message):
        run_task(configure(*scoring(place, f"input={place / 'new'}"), *overrides), tmp_path)
    assert not list(tmp_path.rglob("*.csv"))


def test_a_run_that_was_ended_goes_on_and_gives_the_same_bytes(once, place, tmp_path, monkeypatch):
    cfg = configure(*scoring(place, f"input={place / 'new'}", f"output={tmp_path / 'v.csv'}"))
    write, written = VerdictWriter.on_predict_batch_end, []

    def write_or_die(self, trainer, module, outputs, batch, batch_idx, loader=0):
        if len(written) == 3:
            raise MemoryError
        written.append(batch.paths)
        write(self, trainer, module, outputs, batch, batch_idx, loader)

    monkeypatch.setattr(VerdictWriter, "on_predict_batch_end", write_or_die)
    with pytest.raises(MemoryError):
        run_task(cfg, tmp_path / "run")
    assert not (tmp_path / "v.csv").exists()
    (partial,) = tmp_path.glob("v-*.partial.csv")
    partial.write_bytes(partial.read_bytes()[:-5])  # the kill came within a write
    written.clear()
    monkeypatch.setattr(VerdictWriter, "on_predict_batch_end", lambda *a: (written.append(a[4].paths), write(*a)))
    run_task(cfg, tmp_path / "again")
    assert (tmp_path / "v.csv").read_bytes() == (once / "verdicts.csv").read_bytes()
    assert sum(map(len, written)) == 22 - 8  # of three batches of 4 the torn one is scored again
    assert not list(tmp_path.glob("*partial*"))


def test_the_alarm_is_that_of_the_whole_stream_after_a_kill_too(place, tmp_path, capsys):
    listed = [str(path) for path in sorted((place / "images" / "dark").iterdir())[:40]]
    listed += [str(place / "new" / "red.png")] * 60
    (tmp_path / "list.txt").write_text("\n".join(listed))
    common = scoring(place, f"input={tmp_path / 'list.txt'}", "drift=martingale", "page=3")
    with pytest.warns(DriftWarning, match="drift at input") as told:
        run_task(configure(*common), tmp_path / "once")
    alarm = next(str(each.message) for each in told if each.category is DriftWarning)
    at = int(alarm.split("input ")[1].split(":")[0]) - 1
    assert 40 <= at < 60
    found = json.loads((tmp_path / "once" / "verdicts.facts.json").read_text())["drift"]
    red = str(place / "new" / "red.png")
    assert found["alarms"] == [{"index": at, "path": red}]
    assert 20 <= found["began"]["index"] <= at
    assert sum(each["n"] for each in found["p_values"]) == 100
    assert found["p_values"][-1]["refused"] == 1
    meaning, in_terminal = alarm.split(": ")[1], capsys.readouterr().out
    assert f"Drift at image {at + 1}, {red}.\n" in in_terminal
    assert meaning not in in_terminal  # the warning has it
    page = (tmp_path / "once" / "verdicts.html").read_text()
    assert page.count(meaning) == 1
    assert f"alarm at image {at + 1} of 100" in page

    stop = configure(*common, "drift.stop=true", f"output={tmp_path / 'v.csv'}")
    for _ in range(2):  # begun again, it knows that the alarm was raised
        with pytest.raises(DriftError) as error:
            run_task(stop, tmp_path / "stopped")
        assert str(error.value) == alarm
    assert not (tmp_path / "v.csv").exists()


@pytest.mark.parametrize("drift", ["martingale", "reference"])
def test_an_alarm_on_images_that_were_read_folder_by_folder_says_so(place, tmp_path, capsys, drift):
    common = (f"drift={drift}", "drift.threshold=5", "page=0")
    with pytest.warns(DriftWarning):
        run_task(configure(*scoring(place, f"input={place / 'images'}", *common)), tmp_path / "folders")
    folders, listing = tmp_path / "folders", tmp_path / "list.txt"
    assert json.loads((folders / "verdicts.facts.json").read_text())["drift"]["read_by_folder"]
    assert f"{READ_BY_FOLDER}.\n" in capsys.readouterr().out
    assert READ_BY_FOLDER in (folders / "verdicts.html").read_text()
    with pytest.raises(DriftError, match=READ_BY_FOLDER):
        run_task(configure(*scoring(place, f"input={place / 'images'}", *common, "drift.stop=true")), tmp_path / "stop")

    listing.write_text("".join(f"{row['path']}\n" for row in rows(folders / "verdicts.csv")))
    with pytest.warns(DriftWarning):
        run_task(configure(*scoring(place, f"input={listing}", *common)), tmp_path / "list")
    assert not json.loads((tmp_path / "list" / "verdicts.facts.json").read_text())["drift"]["read_by_folder"]
    assert READ_BY_FOLDER not in capsys.readouterr().out


def test_another_detector_does_not_go_on_from_the_rows_of_this_one(place, tmp_path, caplog):
    caplog.set_level("INFO", "trainers.tasks.fit")
    output = f"output={tmp_path / 'v.csv'}"
    run_task(configure(*scoring(place, f"input={place / 'new'}", output)), tmp_path / "run")
    first = (tmp_path / "v.csv").read_bytes()
    run_task(
        configure(*options(place), "score=log_likelihood", "task=fit", "seed=3", "detector.alpha=0.2"), tmp_path / "fit"
    )
    (prepared,) = (line for line in caplog.messages if line.startswith("images: "))
    assert prepared.startswith("images: 12 x 12 pixels, not scaled (data.image_shape); normalised by mean [0.485, ")
    other = f"checkpoint={tmp_path / 'fit' / 'detector.safetensors'}"
    run_task(configure(*scoring(place, f"input={place / 'new'}", output), other), tmp_path / "run")
    assert (tmp_path / "v.csv").read_bytes() != first


def test_the_command_finds_a_network_in_the_folder_where_it_runs(once, place, tmp_path):
    words = scoring(place, "input=new/bright/001.png", "page=3")
    process = started(as_installed, (str(place), *words), place, tmp_path / "said")
    process.join(300)
    said = (tmp_path / "said").read_text()
    assert process.exitcode == 0, said
    assert "of 1 images refused at alpha=0.05" in said
    (written,) = (place / "runs").rglob("verdicts.csv")
    (row,) = rows(written)
    (same,) = (other for other in rows(once / "verdicts.csv") if other["path"].endswith("bright/001.png"))
    assert row["prediction"] == same["prediction"]
    assert float(row["p_value"]) == pytest.approx(float(same["p_value"]), abs=0.02)


def as_installed(place: str, *words: str) -> None:
    """The command where nothing but the application itself finds the folder."""
    sys.path[:] = [each for each in sys.path if each not in ("", place)]
    find_application()
    application(*words)


def test_every_file_of_a_folder_has_a_row_and_a_row_for_itself_has_none(place, tmp_path):
    """Deep pixels are judged by their values; what is no image is told as such; the run's own files are left out."""
    folder = tmp_path / "new images"
    folder.mkdir()
    pixels = np.asarray(Image.open(place / "new" / "dark" / "001.png").convert("L"))
    Image.fromarray(pixels).save(folder / "a.png")
    Image.fromarray(pixels.astype(np.uint16) * 257).save(folder / "b.png")  # the same image, of 16 bits
    Image.fromarray(pixels / np.float32(255)).save(folder / "c.tif")
    Image.fromarray(pixels * np.float32(1)).save(folder / "d.tif")
    Image.fromarray(pixels).save(folder / "e.gif")
    Image.fromarray(pixels).save(folder / "f", "PNG")
    (folder / 'g,\n"h".txt').write_text("no image")
    (folder / "i.jpg").write_bytes(b"")
    for times in (1, 2):  # the second time the first one's table lies there
        run_task(configure(*scoring(place, f"input={folder}", f"output={folder / 'out.csv'}")), folder / "run")
        found = {Path(row["path"]).name: row for row in rows(folder / "out.csv")}
        assert list(found) == ["a.png", "b.png", "c.tif", "d.tif", "e.gif", "f", 'g,\n"h".txt', "i.jpg"], times
        verdicts = {name: (row["prediction"], row["accept"], row["error"]) for name, row in found.items()}
        assert verdicts["a.png"] == verdicts["b.png"] == verdicts["c.tif"] == verdicts["e.gif"] == verdicts["f"]
        assert "floating point pixels" in found["d.tif"]["error"]
        assert "got a file that is not an image" in found['g,\n"h".txt']["error"]
        assert "got an empty file" in found["i.jpg"]["error"]


def test_in_windows_of_time_a_clock_that_runs_backwards_is_told_before_an_image_is_judged(place, tmp_path):
    listed = [str(path) for path in sorted((place / "images" / "dark").iterdir())[:40]]
    (tmp_path / "red").mkdir()
    for i in range(60):
        listed.append(str(tmp_path / "red" / f"{i}.png"))
        shutil.copy(place / "new" / "red.png", listed[-1])
    for i, path in enumerate(listed):
        os.utime(path, (1.7e9 + 60 * i,) * 2)
    options = scoring(place, f"input={tmp_path / 'list.txt'}", "drift=windows", "drift.threshold=100")
    (tmp_path / "list.txt").write_text("\n".join(listed))
    with pytest.warns(DriftWarning, match="in a window of 3600 s"):
        run_task(configure(*options), tmp_path / "run")
    found = json.loads((tmp_path / "run" / "verdicts.facts.json").read_text())["drift"]
    assert sum(each["n"] for each in found["windows"]) == 100
    assert found["windows"][0]["start"].endswith("+00:00")
    assert found["alarms"][0]["path"] in listed[40:]
    assert len(found["alarms"]) == sum(each["alarm_at"] is not None for each in found["windows"])
    (tmp_path / "list.txt").write_text("\n".join(listed[::-1]))
    with pytest.raises(ValueError, match="expected images in the order in which they were last changed; got"):
        run_task(configure(*options), tmp_path / "back")
    assert not list((tmp_path / "back").glob("verdicts*"))
    with pytest.raises(DataNotFoundError, match="expected files, whose time of change"):
        file_times(["shard.tar::1.png"])
