"""The examples run, and find what their pages say."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

from tests.processes import run_processes

FOLDER = Path(__file__).parent.parent / "examples"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py"))


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"examples_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_resnet_on_an_image_folder_refuses_negatives():
    found = example("image_folder").main(n=200, steps=8)
    assert found["accuracy"] > 0.9
    assert found["refused"] < 0.15
    assert found["refused negatives"] > 0.9


def test_a_network_of_timm_refuses_noise():
    pytest.importorskip("timm")
    found = example("timm_backbone").main("test_resnet", steps=60)
    assert found["accuracy"] > 0.8
    assert found["refused"] < 0.13
    assert found["refused noise"] > 0.9


def test_a_transformer_refuses_sentences_about_something_else():
    pytest.importorskip("transformers")
    found = example("text_classifier").main(steps=40)
    assert found["accuracy"] > 0.95
    assert found["refused"] < 0.13
    assert found["AUROC"] > 0.9


def test_rows_of_a_table_with_a_broken_column_are_found():
    found = example("tabular").main()
    assert found["accuracy"] > 0.9
    assert found["refused"] < 0.15
    assert found["AUROC"] > 0.8


def test_a_plain_loop_gives_a_detector_that_tells_noise_and_attacks_apart():
    found = example("plain_loop").main()
    assert found["accuracy"] > 0.9
    assert found["refused"] < 0.1
    assert found["noise"] > 0.95
    assert found["attacked"] > found["attacked, softmax"]


def test_a_lightning_module_of_ones_own_has_detection_in_tensorboard(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = example("lightning_module").main(folder=str(tmp_path))
    (events,) = tmp_path.rglob("events.out.*")
    shown = accumulator.EventAccumulator(str(events)).Reload()
    assert {name: round(shown.Scalars(name)[0].value, 3) for name in found} == pytest.approx(found, abs=1e-3)
    assert found["detection/val/noise/auroc"] > 0.95 > found["detection/val/noise/softmax_auroc"]
    assert found["detection/val/errors/auroc"] > 0.85
    assert found["detection/val/false_alarm_rate"] < 0.1
    assert list(tmp_path.rglob("*.detector.safetensors"))
    lines = (FOLDER / "lightning_module.py").read_text().splitlines()
    assert len([line for line in lines if line]) <= 30


def test_the_mixture_alone_does_what_that_of_scikit_learn_does():
    found = example("mixture_alone").main()
    assert found["adjusted Rand index"] > 0.8
    assert found["log-likelihood"] == pytest.approx(found["log-likelihood, scikit-learn"], abs=1)
    assert found["AUROC"] > 0.8


@pytest.mark.export
@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_exported_detectors_give_the_same_verdicts():
    pytest.importorskip("onnxruntime")
    found = example("export").main(score="log_likelihood")
    assert found["other verdicts, torch.export"] == found["other verdicts, onnxruntime"] == 0
    assert found["largest difference of p, onnxruntime"] < 0.01
    assert found["refused digits"] < 0.13
    assert found["refused noise"] > 0.9


def test_a_decaying_stream_raises_the_alarm_and_a_clean_one_does_not():
    found = example("drift").main()
    assert found["alarm, clean"] is None
    assert 300 <= found["alarm, decaying"] < 500


def run_cells(_: int, cells: list[str], shown: Path) -> None:
    """Runs cells as a notebook's kernel does, and writes what they show as its outputs."""
    import matplotlib
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output
    from matplotlib_inline.backend_inline import configure_inline_support
    from traitlets.config import Config

    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    inline = "module://matplotlib_inline.backend_inline"
    matplotlib.use(inline)
    matplotlib.interactive(True)
    configure_inline_support(shell, inline)
    outputs = []
    for cell in cells:
        with capture_output() as captured:
            shell.run_cell(cell).raise_error()
        streams = {"stdout": captured.stdout, "stderr": captured.stderr}
        outputs += [{"output_type": "stream", "name": name, "text": text} for name, text in streams.items() if text]
        outputs += [{"output_type": "display_data", "data": each.data} for each in captured.outputs]
    shown.write_text(json.dumps(outputs))


def test_the_notebook_runs_and_is_saved_with_what_it_shows(tmp_path):
    pytest.importorskip("matplotlib_inline")
    path = FOLDER / "quickstart.ipynb"
    assert path.stat().st_size < 100_000
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    # raises where a cell does
    run_processes(run_cells, (["".join(cell["source"]) for cell in cells], tmp_path / "shown.json"), 1)
    saved = [output for cell in cells for output in cell["outputs"]]
    for outputs in (saved, json.loads((tmp_path / "shown.json").read_text())):
        assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
        assert [output for output in outputs if "image/png" in output.get("data", {})]
        text = "".join("".join(output.get("text", "")) for output in outputs)
        shares = {kind: float(share) for kind, share in re.findall(r"(\S+) +n = \d+ +refused: +([\d.]+)%", text)}
        assert shares["digits"] < 12
        assert shares["noise"] > 95
        assert "Refused, predicted" in text
    listed = "| [quickstart.ipynb](quickstart.ipynb) |"
    assert listed in (FOLDER / "README.md").read_text()


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_is_short_listed_and_tested(name):
    assert len((FOLDER / f"{name}.py").read_text().splitlines()) < 60
    listed = re.findall(
        rf"^\| \[{name}\.py\]\({name}\.py\) \| .+ \|$", (FOLDER / "README.md").read_text(), re.MULTILINE
    )
    assert len(listed) == 1
    assert f'example("{name}").main(' in Path(__file__).read_text()
