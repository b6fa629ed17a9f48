"""Fifty clients at once on the service, over loopback.

    python benchmarks/serving.py --case digits --work work
    python benchmarks/serving.py --case cifar10-resnet20 --work work \
        --data cifar10-jpeg --checkpoint resnet20.safetensors

`--prepare` alone fits what is to be served, into the folder `--work`; without it that is done where it is missing.
The server is `gmm-torch task=serve` in a process of its own; the clients are this process. Each client sends an image,
waits for its answer, and sends the next. Memory is that of the server, read from /proc (Linux).

Writes `benchmarks/results/serving.json` and the table of `docs/serving.md`; exits with 1 where a request failed.
"""

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import torch
from configuration import composed
from hydra.utils import instantiate
from pages import RESULTS, ROOT, fill, save, table
from problems import facts
from prometheus_client.parser import text_string_to_metric_families
from torch.utils.data import DataLoader, Subset
from torchvision.io import encode_png

from gmm_torch import FailureDetector
from trainers.classifiers.build import build_classifier
from trainers.run.job import run_task

N_FIT, N_CALIBRATION, N_SENT = 5_000, 2_000, 500
WARM_UP = 5.0  # seconds of load before anything is counted
EVERY = 5.0  # seconds between two looks at the server's memory
MB = 2**20
CASES = ("digits", "cifar10-resnet20")


def prepare_digits(folder: Path) -> None:
    """The demo's network and detector, and its test images as PNG files."""
    cfg = composed("experiment=demo", "attack=[]", "ood=[]", "trainer.enable_progress_bar=false")
    run_task(cfg, folder)
    data = instantiate(cfg.data)
    write_classes(folder, data.class_names)
    for i, (image, _) in enumerate(data.test_images):
        (folder / "sent").mkdir(exist_ok=True)
        (folder / "sent" / f"{i}.png").write_bytes(encode_png((image * 255).round().byte()).numpy().tobytes())


def prepare_cifar10(folder: Path, root: Path, checkpoint: Path) -> None:
    """A detector for the ResNet-20, fitted on a part of the images: how good it is bears on no timing."""
    cfg = composed(
        "experiment=cifar10_resnet20",
        f"data.root={root}",
        f"classifier.checkpoint={checkpoint}",
        "data.source.cache=false",
    )
    data = instantiate(cfg.data)
    write_classes(folder, data.class_names)
    detector = FailureDetector(build_classifier(cfg.classifier, data.num_classes, data.image_shape))
    every = {"mixture": N_FIT, "calibration": N_CALIBRATION}
    loaders = {}
    for split, n in every.items():
        index = data.indices[split]
        chosen = index[torch.linspace(0, len(index) - 1, n).long()].tolist()
        loaders[split] = DataLoader(Subset(data.training_images, chosen), batch_size=128)
    detector.fit(loaders["mixture"]).calibrate(loaders["calibration"])
    detector.save(folder / "detector.safetensors")
    (folder / "classifier.safetensors").write_bytes(checkpoint.read_bytes())
    (folder / "sent").mkdir(exist_ok=True)
    files = sorted((root / "test").rglob("*.jpg"))
    for i in torch.randperm(len(files), generator=torch.Generator().manual_seed(0))[:N_SENT].tolist():
        (folder / "sent" / f"{i}.jpg").write_bytes(files[i].read_bytes())


def write_classes(folder: Path, names: list[str]) -> None:
    """One name a line."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classes.txt").write_text("\n".join(names) + "\n")


@contextmanager
def server(case: str, folder: Path) -> Iterator[tuple[str, int]]:
    """The application serving what was prepared: its address and process id."""
    chosen = {"digits": ["experiment=demo"], "cifar10-resnet20": ["experiment=cifar10_resnet20", "data.root=none"]}[
        case
    ]
    command = [
        sys.executable, "-m", "trainers.main", *chosen, "task=serve", "task.port=0",
        f"task.class_names={folder / 'classes.txt'}", f"checkpoint={folder / 'detector.safetensors'}",
        f"classifier.checkpoint={folder / 'classifier.safetensors'}", f"hydra.run.dir={folder / 'served'}",
        f"task.log={folder / 'requests.jsonl'}",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            assert process.stdout is not None
            said = ""
            for line in process.stdout:
                said += line
                if found := re.search(r"listening on (\S+)", line):
                    yield found[1], process.pid
                    return
            raise RuntimeError(f"the server did not start: {said}")
        finally:
            process.terminate()


def memory(pid: int) -> dict[str, float]:
    """Resident memory of a process now and at its highest, MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = {name: re.search(rf"{name}:\s+(\d+) kB", status) for name in ("VmRSS", "VmHWM")}
    return {name: int(match[1]) / 1024 for name, match in found.items() if match}


def processor_seconds(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def client(
    session: aiohttp.ClientSession,
    url: str,
    files: list[bytes],
    start: int,
    until: float,
    seen: list[tuple[float, int, bool]],
) -> None:
    """Send one image after another; notes seconds, status and verdict of each."""
    i = start
    while time.perf_counter() < until:
        began = time.perf_counter()
        try:
            async with session.post(url, data=files[i % len(files)]) as response:
                answer = await response.json()
                seen.append((time.perf_counter() - began, response.status, bool(answer.get("accept"))))
        except (aiohttp.ClientError, TimeoutError):
            seen.append((time.perf_counter() - began, 0, False))
        i += 1


async def load(
    url: str, files: list[bytes], clients: int, seconds: float
) -> tuple[list[tuple[float, int, bool]], float]:
    """What all clients saw, and how long it took."""
    seen: list[tuple[float, int, bool]] = []
    connector = aiohttp.TCPConnector(limit=clients)
    async with aiohttp.ClientSession(connector=connector) as session:
        began = time.perf_counter()
        step = max(1, len(files) // clients)
        await asyncio.gather(*(client(session, url, files, i * step, began + seconds, seen) for i in range(clients)))
        return seen, time.perf_counter() - began


async def watch(pid: int, samples: list[float]) -> None:
    """Note the server's memory every now and then."""
    while True:
        samples.append(memory(pid)["VmRSS"])
        await asyncio.sleep(EVERY)


async def ready(address: str) -> None:
    """Wait until the service takes images."""
    async with aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"{address}/health") as response:
                if response.status == 200:
                    return
            await asyncio.sleep(0.1)


async def scraped(address: str) -> dict[str, float]:
    """Unlabelled samples of /metrics."""
    async with aiohttp.ClientSession() as session, session.get(f"{address}/metrics") as response:
        families = text_string_to_metric_families(await response.text())
    return {sample.name: sample.value for family in families for sample in family.samples if not sample.labels}


async def measure(
    address: str, pid: int, files: list[bytes], clients: int, seconds: float, explain: bool
) -> dict[str, Any]:
    """One row of the table."""
    url = f"{address}/predict?explain={str(explain).lower()}"
    await ready(address)
    await load(url, files, clients, WARM_UP)
    samples: list[float] = []
    watching = asyncio.create_task(watch(pid, samples))
    before, processor = await scraped(address), processor_seconds(pid)
    seen, took = await load(url, files, clients, seconds)
    after, processor = await scraped(address), processor_seconds(pid) - processor
    watching.cancel()
    samples.append(memory(pid)["VmRSS"])
    latency = 1000 * np.array([each[0] for each in seen])
    statuses = Counter(str(status) for _, status, _ in seen)
    images, batches = (
        after[f"gmm_torch_batch_images_{key}"] - before[f"gmm_torch_batch_images_{key}"] for key in ("sum", "count")
    )
    return {
        "explain": explain,
        "clients": clients,
        "seconds": took,
        "requests": len(seen),
        "statuses": dict(statuses),
        "errors": len(seen) - statuses["200"],
        "requests_per_second": len(seen) / took,
        "latency_ms": {f"p{q}": float(np.percentile(latency, q)) for q in (50, 90, 99)} | {"max": float(latency.max())},
        "images_per_batch": images / batches,
        "refused": 1 - float(np.mean([each[2] for each in seen])),
        "server_processors": processor / took,
        "memory_mb": {"start": samples[0], "end": samples[-1], "highest": memory(pid)["VmHWM"], "every_5_s": samples},
    }


def page(found: dict[str, Any]) -> str:
    """The table of docs/serving.md."""
    head = (
        "served", "explained", "requests", "errors", "requests a second", "median, ms", "90 %", "99 %", "slowest",
        "images a batch", "memory at start, MB", "at end", "highest", "refused",
    )  # fmt: skip
    rows = [
        (
            name,
            "yes" if row["explain"] else "no",
            f"{row['requests']:,}",
            str(row["errors"]),
            f"{row['requests_per_second']:.0f}",
            *(f"{row['latency_ms'][key]:.0f}" for key in ("p50", "p90", "p99", "max")),
            f"{row['images_per_batch']:.1f}",
            *(f"{row['memory_mb'][key]:.0f}" for key in ("start", "end", "highest")),
            f"{100 * row['refused']:.1f} %",
        )
        for name, case in found.items()
        for row in case["rows"]
    ]
    notes = []
    for name, case in found.items():
        about = case["about"]
        versions = ", ".join(f"{package} {version}" for package, version in about["versions"].items())
        seconds = " and ".join(f"{row['seconds']:.0f} s" for row in case["rows"])
        notes.append(
            f"{name}: {case['rows'][0]['clients']} clients for {seconds}; {about['device']}, model in "
            f"{about['threads']} thread{'s' * (about['threads'] != 1)}, clients on the same machine; "
            f"Python {about['python']}, {versions}."
        )
    return table(head, rows) + "\n\n" + "\n\n".join(notes)


def main() -> int:
    """Prepare, load, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for what is served")
    parser.add_argument("--data", type=Path, help="CIFAR-10 as an image folder")
    parser.add_argument("--checkpoint", type=Path, help="of the ResNet-20")
    parser.add_argument("--prepare", action="store_true", help="only fit what is to be served")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=120, help="with explanations; a sixth of it without")
    options = parser.parse_args()
    folder = options.work.resolve() / options.case
    if not (folder / "sent").is_dir():
        if options.case == "digits":
            prepare_digits(folder)
        else:
            prepare_cifar10(folder, options.data, options.checkpoint)
    if options.prepare:
        return 0
    files = [path.read_bytes() for path in sorted((folder / "sent").iterdir())]
    rows = []
    with server(options.case, folder) as (address, pid):
        for explain, seconds in ((True, options.seconds), (False, options.seconds / 6)):
            rows.append(asyncio.run(measure(address, pid, files, options.clients, seconds, explain)))
            print(
                json.dumps({key: value for key, value in rows[-1].items() if key != "memory_mb"}), rows[-1]["memory_mb"]
            )
    path = RESULTS / "serving.json"
    found = json.loads(path.read_text()) if path.is_file() else {}
    about = facts(torch.device("cpu"), "fastapi", "uvicorn")
    found[options.case] = {"about": about, "rows": rows}
    found = {case: found[case] for case in CASES if case in found}
    save(path, found)
    fill(ROOT / "docs" / "serving.md", "serving", page(found))
    return int(any(row["errors"] for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
