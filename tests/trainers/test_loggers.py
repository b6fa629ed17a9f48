"""One run, read back out of each logger by the logger's own library."""

import csv
import json
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.configuration import configure
from tests.drawing import figures_left_as_placed, figures_left_empty
from trainers.run.job import run_task
from trainers.run.loggers import CSVLogger

INSTALLED = {"csv": "csv", "tensorboard": "tensorboard", "mlflow": "mlflow", "wandb": "wandb"}
BLOCK, HEADER, BEGINNING = 32_768, 7, 7  # bytes of a `.wandb` file, which is a LevelDB log: github.com/google/leveldb


@pytest.fixture(scope="module")
def logged(tmp_path_factory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("logged")
    loggers = [name for name, module in INSTALLED.items() if installed(module)]
    fast = ("debug=fast", "trainer.enable_progress_bar=false", "attack=fgsm", "ood=uniform_noise", "detector.views=1")
    fast += ("trainer.log_every_n_steps=1", "corruption=fog")
    with pytest.MonkeyPatch.context() as patched, figures_left_empty(), figures_left_as_placed():
        for name in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_ARTIFACT_DIR"):
            patched.setenv(name, str(tmp_path_factory.mktemp("wandb")))
        patched.setenv("WANDB_MODE", "offline")  # Lightning sets it; so it is reset
        # of agents that start runs; it takes long to import, and a run goes on without it
        patched.setitem(sys.modules, "wandb.sdk.launch.inputs.internal", None)
        patched.delenv("MLFLOW_TRACKING_URI", raising=False)
        run_task(configure(*fast, f"logger=[{','.join(loggers)}]"), folder / "run")
        yield folder / "run"
        if "wandb" in loggers:
            pytest.importorskip("wandb").teardown()


def installed(module: str) -> bool:
    try:
        __import__(module)
    except ImportError:
        return False
    return True


@pytest.fixture(scope="module")
def expected(logged) -> dict[str, float]:
    """Some of the numbers of metrics.json, by the names that loggers have."""
    metrics = json.loads((logged / "metrics.json").read_text())
    found = {"detection/accuracy": metrics["classifier"]["test_accuracy"]}
    found["detection/false_alarm_rate"] = metrics["calibration"]["false_alarm_rate"]["0.05"]
    for name, source in metrics["sources"].items():
        base = source["baselines"]["max_softmax"]
        for ours, key in (("auroc", "auroc"), ("fpr95", "fpr_at_95_tpr"), ("aurc", "aurc")):
            if source.get(key) is not None:
                found |= {f"detection/{name}/{ours}": source[key], f"detection/{name}/softmax_{ours}": base[key]}
    for point in metrics["corruptions"]["kinds"]["fog"]:
        found[f"detection/corruption/fog/{point['severity']}/error_rate"] = point["error_rate"]
    assert {"detection/errors/aurc", "detection/ood/uniform_noise/softmax_fpr95"} <= found.keys()
    return found


def test_csv_has_the_numbers_in_one_version(logged, expected):
    (file,) = logged.glob("csv/**/*.csv")
    with open(file, newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert {name: float(rows[-1][name]) for name in expected} == pytest.approx(expected)
    assert sum(bool(row["em/1/log_likelihood"]) for row in rows) > 1  # of each mixture a curve of its own
    assert sum(bool(row["train/loss"]) for row in rows) >= 1
    assert yaml.safe_load((file.parent / "hparams.yaml").read_text())["optimizer"]["lr"] == configure().optimizer.lr


def test_tensorboard_has_numbers_tables_figures_and_config(logged, expected):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    everything = {"images": 0, "tensors": 0, "scalars": 0}
    events = accumulator.EventAccumulator(str(logged / "tensorboard"), size_guidance=everything).Reload()
    assert [path.name for path in logged.glob("**/events.*") if path.parent.name != "tensorboard"] == []
    assert {name: events.Scalars(name)[-1].value for name in expected} == pytest.approx(expected)
    (table,) = events.Tensors("detection/results/text_summary")
    assert b"| uniform noise (OOD) |" in table.tensor_proto.string_val[0]
    (figure,) = events.Images("detection/roc_uniform_noise_ood")
    assert figure.encoded_image_string.startswith(b"\x89PNG")
    assert min(figure.width, figure.height) > 200
    assert yaml.safe_load((logged / "tensorboard" / "hparams.yaml").read_text())["seed"] == 0


def test_mlflow_has_numbers_files_and_config(logged, expected):
    tracking = pytest.importorskip("mlflow.tracking")
    client = tracking.MlflowClient(f"sqlite:///{logged / 'mlflow' / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("gmm_torch").experiment_id])
    assert run.info.status == "FINISHED"
    assert {name: run.data.metrics[name] for name in expected} == pytest.approx(expected)
    assert run.data.params["data/batch_size"] == "64"
    inside = {
        each.path for part in (None, "tables", "figures") for each in client.list_artifacts(run.info.run_id, part)
    }
    assert {"report.html", "metrics.json", "tables/results.md", "figures/roc_uniform_noise_ood.png"} <= inside
    report = Path(client.download_artifacts(run.info.run_id, "report.html"))
    assert report.read_bytes() == (logged / "report.html").read_bytes()


def test_wandb_offline_has_numbers_files_and_config(logged, expected):
    protocol = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    (file,) = (logged / "wandb").glob("offline-run-*/run-*.wandb")
    records = [protocol.Record.FromString(record) for record in leveldb_log(file.read_bytes())]
    history: dict[str, Any] = {}
    for record in records:
        history |= {"/".join(each.nested_key) or each.key: each.value_json for each in record.history.item}
    assert {name: float(history[name]) for name in expected} == pytest.approx(expected)
    config = {each.key or "/".join(each.nested_key): each.value_json for r in records for each in r.config.update}
    assert json.loads(config["data"])["batch_size"] == 64
    (artifact,) = (record.artifact for record in records if record.artifact.type == "report")
    inside = {each.path for each in artifact.manifest.contents}
    assert {"report.html", "metrics.json", "tables/results.md", "figures/roc_uniform_noise_ood.png"} <= inside
    table = json.loads((file.parent / "files" / json.loads(history["detection/results/path"])).read_text())
    assert table["columns"][:3] == ["source", "n", "AUROC"]
    assert [row[0] for row in table["data"]] == ["test errors", "fgsm attack", "uniform noise (OOD)"]
    report = file.parent / "files" / json.loads(history["detection/report/path"])
    assert report.read_text() == (logged / "report.html").read_text()
    assert (records[-1].WhichOneof("record_type"), records[-1].exit.exit_code) == ("exit", 0)


def leveldb_log(data: bytes) -> Iterator[bytes]:
    """The records of a LevelDB log: wandb has no reader of its own."""
    at, record = BEGINNING, b""
    while at < len(data):
        if BLOCK - at % BLOCK < HEADER:  # the rest of a block is filled up
            at += BLOCK - at % BLOCK
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        record += data[at + HEADER : at + HEADER + size]
        at += HEADER + size
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def test_csv_goes_on_where_another_process_wrote(tmp_path):
    logger = CSVLogger(tmp_path, name="csv", version="")
    logger.log_hyperparams({"seed": 0})
    for name, value in (("loss", 1.0), ("log_likelihood", 2.0)):  # each as in a spawned process of its own
        other = pickle.loads(pickle.dumps(logger))
        other.log_metrics({name: value})
        other.save()
    logger.log_metrics({"auroc": 3.0})
    logger.save()
    with open(tmp_path / "csv" / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    values = [{name: value for name, value in row.items() if value and name != "step"} for row in rows]
    assert values == [{"loss": "1.0"}, {"log_likelihood": "2.0"}, {"auroc": "3.0"}]
