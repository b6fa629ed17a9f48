"""The examples of docs/serving.md run as they stand."""

import json
import re
from typing import Any

import pytest
import torch

from gmm_torch.scores import make_score
from tests.configuration import configure
from tests.pages import ROOT, blocks
from tests.processes import started
from tests.trainers.serve.conftest import SHAPE, counted, detector, listening, serving  # noqa: F401 - a fixture
from trainers.serve import Limits, create_app
from trainers.serve.app import PROBLEMS
from trainers.serve.inference.response import OUTPUTS
from trainers.tasks.serve import N_KEPT

PAGE = (ROOT / "docs" / "serving.md").read_text()


def test_every_python_block_runs(run_python_blocks):
    assert run_python_blocks(PAGE) == 1


@pytest.mark.export
@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_the_file_for_onnx_judges_as_the_detector_does(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    script = {block.title: block.text for block in blocks(PAGE)}["to_onnx.py"]
    names: dict[str, Any] = {"small": make_score("log_likelihood", n_components=2)}  # a third of the time
    exec(script.replace("n_components=5", "score=small"), names)
    verdict = names["detector"](torch.from_numpy(names["images"]))
    assert verdict.prediction.tolist() == names["prediction"].tolist()
    assert names["p_value"] == pytest.approx(verdict.p_value.numpy(), abs=0.01)
    assert names["accept"].shape == (7,)


def test_the_client_of_the_page_gets_what_the_page_shows(detector, tmp_path):  # noqa: F811
    pytest.importorskip("tritonclient.http")
    titled = {block.title: block.text for block in blocks(PAGE)}
    with listening(create_app(detector, SHAPE)) as port:
        script = titled["ask.py"].replace("127.0.0.1:8000", f"127.0.0.1:{port}")
        process = started(exec, (script, {}), tmp_path, tmp_path / "printed")
        process.join()
    printed = (tmp_path / "printed").read_text()
    assert process.exitcode == 0, printed
    assert of_any_model(printed) == of_any_model(titled["printed"])


def of_any_model(printed: str) -> str:
    """What a client printed, whatever the detector's numbers: no spaces between them, and which they are left out."""
    kept = re.sub(r"(prediction|p_value) \[[^\]]*\]", r"\1", printed)
    return re.sub(r"accept \[[^\]]*False\]", "accept", kept)


def test_the_limits_of_the_page_are_the_defaults():
    told = dict(re.findall(r"^\| `(\w+)` \| ([\d.,]+)", PAGE, re.MULTILINE))
    assert {name: float(value.replace(",", "")) for name, value in told.items()} == vars(Limits())


def test_the_answers_of_the_page_are_those_of_the_schema():
    assert {int(status) for status in re.findall(r"^\| (\d{3}) \|", PAGE, re.MULTILINE)} == set(PROBLEMS)


def test_the_outputs_and_the_json_of_the_page_are_those_of_the_service():
    table = PAGE[PAGE.index("| output |") : PAGE.index("Tensors have the classifier's size")]
    told = {name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1] if row else "")}
    assert told == set(OUTPUTS)
    for block in blocks(PAGE):
        if block.language == "json":
            json.loads("[" + re.sub(r"\}\n\{", "},{", block.text.replace(", ...]", "]")) + "]")


def test_the_metrics_of_the_page_are_those_of_the_service(detector):  # noqa: F811
    with serving(detector) as client:
        client.post("/predict", content=b"none")
        exposed = {name for name, *_ in counted(client)}
    told = set(re.findall(r"gmm_torch_[a-z0-9_]+", PAGE))
    suffixes = ("", "_bucket")
    assert {name for name in told if not any(name + suffix in exposed for suffix in suffixes)} == set()
    families = {re.sub(r"_(bucket|sum|count|created)$", "", name) for name in exposed if name.startswith("gmm_torch")}
    assert {name for name in families if name not in told and f"{name}_total" not in told} == set()


def test_the_promises_of_the_page_are_those_of_the_configurations():
    of_all, of_windows = (configure("task=serve", *each).drift for each in ((), ("drift=windows",)))
    assert (of_all.promise, of_all.get("seconds"), of_windows.seconds) == ("average", None, 3600)
    assert f"{100 / of_all.threshold:g} % (`drift.threshold={of_all.threshold}`)" in PAGE
    assert f"{100 / of_windows.threshold:g} % (`drift.threshold={of_windows.threshold}`)" in PAGE
    assert f"latest {N_KEPT} windows" in PAGE
