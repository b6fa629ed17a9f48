"""Judging images on Ray Data gives the rows of one process, also when a process is killed in the middle."""

import io
import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.configuration import configure
from tests.trainers.test_score import once, place, rows, scoring  # noqa: F401 - fixtures
from trainers.run import requirements
from trainers.run.job import run_task
from trainers.scoring import ray_data

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow

MORTAL = """
import os
import signal
from pathlib import Path

from their_pkg import MyNet


class Mortal(MyNet):
    calls = 0

    def forward(self, x):
        Mortal.calls += 1
        killed = Path(__file__).with_name(f"killed-{os.getpid()}")
        if os.getpid() != TESTS and Mortal.calls == 3 and not list(killed.parent.glob("killed-*")):
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)
"""


@pytest.fixture(scope="module")
def cluster(place):  # noqa: F811
    """Ray with CPUs for two actors and a task that decodes, whose processes find what this one finds."""
    if "TEST_RAY" not in os.environ:
        pytest.skip("takes a Ray cluster, and minutes on two cores: make test-ray")
    for name, value in ray_data.QUIET.items():
        os.environ.setdefault(name, value)
    ray.init("local", num_cpus=3, include_dashboard=False, log_to_driver=False, object_store_memory=2**27)
    yield
    ray.shutdown()


def on_ray(*more: str) -> list[str]:
    return ["engine=ray", "engine.batches_a_task=1", *more]


def test_an_actor_killed_in_the_middle_loses_no_row_and_repeats_none(cluster, once, place, tmp_path, capfd):  # noqa: F811
    """The actor kills its own process in the middle; an image that can't be read has its row with the reason."""
    package = place / "mortal_pkg"
    package.mkdir()
    (package / "__init__.py").write_text(MORTAL.replace("TESTS", str(os.getpid())))
    output = (f"output={tmp_path / 'v.csv'}", "classifier._target_=mortal_pkg.Mortal")
    run_task(configure(*scoring(place, f"input={place / 'new'}", *on_ray(*output))), tmp_path / "run")
    assert len(list(package.glob("killed-*"))) == 1
    assert (tmp_path / "v.csv").read_bytes() == (once / "verdicts.csv").read_bytes()
    assert not list(tmp_path.glob("*partial*"))
    told = "".join(capfd.readouterr())
    assert "Warning" not in told
    assert "execution finished" not in told


def test_packed_images_are_judged_as_files_are_and_the_rest_after_a_kill(cluster, once, place, tmp_path, monkeypatch):  # noqa: F811
    """A tar and two tables, begun in this process and ended on Ray, with an alarm that watches."""
    by_path = {row["path"]: row for row in rows(once / "verdicts.csv")}
    files = list(by_path)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for file in files[:9]:
            archive.add(file, Path(file).relative_to(place / "new"))
            archive.addfile(tarfile.TarInfo("label.cls"), io.BytesIO())
    images = [{"bytes": Path(file).read_bytes(), "path": None} for file in files[9:16]]
    pq.write_table(pa.table({"key": ["k"] * 7, "image": images}), tmp_path / "b.parquet", row_group_size=3)
    with pa.ipc.new_file(tmp_path / "c.arrow", pa.schema({"where": pa.string()})) as file:
        file.write_table(pa.table({"where": files[16:]}))

    monkeypatch.setattr("trainers.records.verdict_parts.ROWS", 5)
    packed = f"input=[{','.join(str(tmp_path / name) for name in ('a.tar', 'b.parquet', 'c.arrow'))}]"
    cfg = configure(*scoring(place, packed, f"output={tmp_path / 'v.parquet'}", "drift=martingale", "page=3"))
    with monkeypatch.context() as ended:
        ended.setattr("trainers.records.verdict_parts.VerdictParts.finish", lambda *_: exec("raise MemoryError"))
        with pytest.raises(MemoryError):
            run_task(cfg, tmp_path / "run")
    (partial,) = tmp_path.glob("v-*.partial.parquet")
    first, second = sorted(partial.iterdir())
    second.unlink()
    (partial / ".part-00001-half").mkdir()
    written = first.stat().st_mtime_ns
    more = configure(*scoring(place, packed, f"output={tmp_path / 'v.parquet'}", "drift=martingale", "page=3"))
    more.engine = configure("task=score", *on_ray("engine.actors=2")).engine
    run_task(more, tmp_path / "again")

    parts = sorted((tmp_path / "v.parquet").iterdir())
    assert [part.name for part in parts] == [f"part-0000{i}.parquet" for i in range(3)]
    assert parts[0].stat().st_mtime_ns == written
    found = pa.concat_tables([pq.read_table(part) for part in parts]).to_pylist()
    assert len(found) == len(files)
    for row, file in zip(found, files, strict=True):
        assert row["path"] == file or row["path"].split("::")[0] in (
            str(tmp_path / "a.tar"),
            str(tmp_path / "b.parquet"),
        )
        same = by_path[file]
        assert (row["prediction"], str(row["accept"]), str(row["component"])) == (
            same["prediction"] or None, same["accept"], same["component"] or "None",
        )  # fmt: skip
        assert row["p_value"] == (float(same["p_value"]) if same["p_value"] else None)
        assert bool(row["error"]) == bool(same["error"])
    assert "a.tar::" in (tmp_path / "v.html").read_text()


def test_without_ray_one_error_says_what_to_install(place, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(requirements, "find_spec", lambda name: None if name == "ray" else name)
    with pytest.raises(Exception, match=r"engine=ray needs ray: pip install -e '\.\[ray\]'"):
        run_task(configure(*scoring(place, f"input={place / 'new'}", *on_ray())), tmp_path)
