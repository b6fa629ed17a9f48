"""The wheel carries everything that a run needs."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

from omegaconf import OmegaConf

import gmm_torch

ROOT = Path(__file__).parent.parent


def test_an_installed_wheel_runs_the_demo_config_elsewhere(tmp_path):
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    assert (site / "gmm_torch" / "py.typed").is_file()
    assert list(site.glob("gmm_torch-*.dist-info/licenses/LICENSE"))
    environment = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    where = "import trainers.main; print(trainers.main.CONF)"
    found = subprocess.run([sys.executable, "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert Path(found.stdout.strip()) == site / "trainers" / "conf"
    command = [
        sys.executable,
        "-m",
        "trainers.main",
        "experiment=demo",
        "debug=fast",
        "ood=[uniform_noise]",
        "attack=[fgsm]",
    ]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "runs" / "demo" / "report.html").is_file()


def test_version_and_licence_are_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = OmegaConf.load(ROOT / "CITATION.cff")
    assert project["version"] == gmm_torch.__version__ == citation.version
    assert project["license"] == citation.license == (ROOT / "LICENSE").read_text().split()[0]
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text()
    assert citation.references[0].url.endswith("2010.02364")


def test_the_source_distribution_has_what_it_names():
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["sdist"]
    assert not [name for name in build["include"] if not (ROOT / name).exists()]
