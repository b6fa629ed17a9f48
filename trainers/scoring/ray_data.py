"""Judging images on Ray Data: tasks decode, actors judge, this process receives."""

import logging
import math
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from trainers.data.file_batches import FileBatches
from trainers.modules.evaluation_module import EvaluationModule
from trainers.records.record import Records
from trainers.run.model import Model
from trainers.run.requirements import require_packages
from trainers.run.run import Run
from trainers.scoring.judge import Judge, decoded
from trainers.scoring.record_table import records_of_table

if TYPE_CHECKING:
    import pyarrow as pa
    import ray.data

PACKAGES = ("ray", "pyarrow")
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}

log = logging.getLogger(__name__)


class ReceivingModule(EvaluationModule):
    """Hands on the records that were made elsewhere; a Trainer's callbacks then watch them as they do its own."""

    def predict_step(self, batch: "pa.Table", batch_idx: int) -> Records:
        """`Records` of a row of `table_of`."""
        return records_of_table(batch)


class RayEngine:
    """Decodes in tasks of Ray Data and judges in a pool of actors, each of which holds classifier and detector.

    Batches, and so rows, are those of the local engine, and arrive in its order. A task or an actor whose process ends
    is started again, and what it was at work on is done again: none of that has been received yet.

    Args:
        actors: how many.
        num_cpus, num_gpus: of each actor; a task that decodes takes one CPU.
        batches_a_task: that are decoded by one task, one after another.
        address: of a cluster; None for `RAY_ADDRESS`, and where that is not set for processes of this machine.

    Raises:
        ValueError: Ray is not installed.
    """

    def __init__(
        self,
        actors: int = 1,
        num_cpus: float = 1,
        num_gpus: float = 0,
        batches_a_task: int = 8,
        address: str | None = None,
    ) -> None:
        require_packages(PACKAGES, "engine=ray", "ray")
        self.actors = actors
        self.num_cpus = num_cpus
        self.num_gpus = num_gpus
        self.batches_a_task = batches_a_task
        self.address = address

    @contextmanager
    def start(
        self, run: Run, model: Model, batches: FileBatches
    ) -> Iterator[tuple[ReceivingModule, Iterable["pa.Table"]]]:
        """A module and an iterable that give the `Records` of the batches, in order, to `trainer.predict`."""
        with self._cluster():
            yield ReceivingModule(model.detector), _Rows(self._dataset(run, model, batches), len(batches))

    @contextmanager
    def _cluster(self) -> Iterator[None]:
        """Ray as it runs already, or else connected to or started until the end of the block."""
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        import ray

        if ray.is_initialized():
            self._check_cpus()
            yield
            return
        quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        address = self.address or os.environ.get("RAY_ADDRESS")
        if not address:  # more CPUs than there are, rather than a wait without end for one to decode with
            n_cpus = max(os.cpu_count() or 1, math.ceil(self.actors * self.num_cpus) + 1)
            quiet |= {"num_cpus": n_cpus, "include_dashboard": False}
        with _no_stderr():
            ray.init(address or "local", **quiet)
        if address:
            self._check_cpus()
        try:
            yield
        finally:
            ray.shutdown()

    def _check_cpus(self) -> None:
        import ray

        there, taken = ray.cluster_resources().get("CPU", 0), self.actors * self.num_cpus
        if there < taken + 1:
            log.warning(
                "engine: the cluster has %g CPUs; %d actors take %g of them and decoding takes one more, for which it "
                "waits: lower engine.actors or engine.num_cpus, or add nodes",
                there,
                self.actors,
                taken,
            )

    def _dataset(self, run: Run, model: Model, batches: FileBatches) -> "ray.data.Dataset":
        import ray.data

        logging.getLogger("ray.data").setLevel(logging.ERROR)  # it tells of every start and end
        context = ray.data.DataContext.get_current().copy()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.execution_options.preserve_order = True
        by_row: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow", "zero_copy_batch": True}
        decode = partial(decoded, image_shape=batches.image_shape, resize=batches.resize)
        arguments = (OmegaConf.to_container(run.cfg), model.class_names, model.image_shape, sys.path)
        with ray.data.DataContext.current(context):
            return (
                ray.data.from_arrow(list(self._tasks(batches)))
                .map_batches(decode, **by_row)
                .map_batches(
                    Judge,
                    fn_constructor_args=arguments,
                    compute=ray.data.ActorPoolStrategy(size=self.actors),
                    num_cpus=self.num_cpus,
                    num_gpus=self.num_gpus,
                    memory=1,  # byte: stages that ask for the same are made one, and would not overlap
                    **by_row,
                )
            )

    def _tasks(self, batches: FileBatches) -> Iterator["pa.Table"]:
        """The paths that are left: a table a task, a row a batch."""
        import pyarrow as pa

        size = batches.batch_size
        for first in range(batches.first, len(batches.paths), size * self.batches_a_task):
            paths = [os.fsencode(path) for path in batches.paths[first : first + size * self.batches_a_task]]
            rows = [paths[i : i + size] for i in range(0, len(paths), size)]
            yield pa.table({"paths": pa.array(rows, pa.list_(pa.binary()))})


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Ray tells there, from C++, that it was told to be quiet; what goes wrong is raised as well."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


class _Rows:
    """The rows of a dataset, as tables of one row."""

    def __init__(self, dataset: "ray.data.Dataset", n: int) -> None:
        self.dataset = dataset
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator["pa.Table"]:
        blocks: Iterable[Any] = self.dataset.iter_batches(batch_size=None, batch_format="pyarrow")
        for block in blocks:
            yield from (block.slice(i, 1) for i in range(len(block)))
