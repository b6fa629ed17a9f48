"""The mixture: however the points come, in whatever surroundings, the fit and the densities are the same."""

import copy
import math
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from gmm_torch import GaussianMixture
from gmm_torch.mixture.options import EMOptions
from tests.equivalence.rows import Row, Way, asked, near
from tests.equivalence.surroundings import bfloat16, default_dtype, folder, threads, within
from tests.processes import run_processes

N, D, K = 600, 4, 3
TYPES = ("full", "tied", "diag", "spherical")
Answer = dict[str, Any]


@cache
def points() -> Tensor:
    """(N, D) float32: three clusters, all numbers multiples of 1/64, so that every sum order is exact in float64."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, D, generator=generator) + 4 * torch.randint(0, K, (N, 1), generator=generator)
    return (64 * x).round() / 64


@cache
def counts() -> Tensor:
    """(N,) int64, how often each point is there."""
    return torch.randint(0, 4, (N,), generator=torch.Generator().manual_seed(1))


@cache
def order() -> Tensor:
    """(N,) int64, another order."""
    return torch.randperm(N, generator=torch.Generator().manual_seed(2))


@cache
def start() -> dict[str, Tensor]:
    """Initial values, so that what is compared is EM alone."""
    return {
        "weights_init": torch.full((K,), 1 / K, dtype=torch.float64),
        "means_init": points()[:K].double() + 0.25,
        "precisions_init": torch.eye(D, dtype=torch.float64).repeat(K, 1, 1),
    }


def parameters(mixture: GaussianMixture) -> Answer:
    """What a fit found."""
    return {
        "weights": mixture.weights,
        "means": mixture.means,
        "covariances": mixture.covariances,
        "objective": float(mixture.lower_bound),
    }


def fit(x: Any, kind: str = "full", dtype: torch.dtype | None = None, **options: Any) -> GaussianMixture:
    """A fit with few iterations, which would show a difference that a converged one forgets."""
    return GaussianMixture(K, D, kind, dtype=dtype).fit(x, **{"max_iter": 7, "tol": 0.0, "seed": 3, **options})


def fitted(x: Any, kind: str = "full", **options: Any) -> Answer:
    """`parameters` of a fit."""
    return parameters(fit(x, kind, **options))


def memory_map(dtype: str = "<f4") -> np.ndarray:
    """The points as a read-only file."""
    path = folder("points") / "x.npy"
    np.save(path, points().numpy().astype(dtype))
    return np.load(path, mmap_mode="r")


def sums(x: Tensor, kind: str) -> Answer:
    """One iteration of EM by brute force: NumPy, float64, point by point and component by component."""
    z, given = x.double().numpy(), {name: value.numpy() for name, value in start().items()}
    log = np.empty((N, K))
    for k in range(K):
        off = z - given["means_init"][k]
        log[:, k] = math.log(given["weights_init"][k]) - 0.5 * ((off * off).sum(1) + D * math.log(2 * math.pi))
    share = np.exp(log - log.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    mass = share.sum(0)
    means = (share.T @ z) / mass[:, None]
    full = np.stack([((z - means[k]).T * share[:, k]) @ (z - means[k]) / mass[k] for k in range(K)])
    covariances = {
        "full": full,
        "tied": (full * mass[:, None, None]).sum(0) / N,
        "diag": full.diagonal(axis1=1, axis2=2),
        "spherical": full.diagonal(axis1=1, axis2=2).mean(1),
    }[kind]
    return {"weights": mass / N, "means": means, "covariances": covariances}


def one_iteration(kind: str) -> Answer:
    """The same by the library, without regularisation."""
    precisions = {"full": start()["precisions_init"], "tied": torch.eye(D).double(), "diag": torch.ones(K, D).double()}
    given = {**start(), "precisions_init": precisions.get(kind, torch.ones(K).double())}
    found = fitted(points().double(), kind, dtype=torch.float64, max_iter=1, reg_covar=0.0, **given)
    del found["objective"]
    return found


@cache
def known(kind: str) -> GaussianMixture:
    """A fitted mixture."""
    return fit(points(), kind)


def brute_force(kind: str, x: Tensor) -> np.ndarray:
    """log p(x) by inverse and determinant in float64."""
    mixture, z = known(kind), x.double().numpy()
    log = []
    dense = mixture.dense_covariances.double().numpy()
    dense = np.broadcast_to(dense, (K, D, D))
    for k in range(K):
        off = z - mixture.means[k].double().numpy()
        distance = np.einsum("nd,de,ne->n", off, np.linalg.inv(dense[k]), off)
        constant = D * math.log(2 * math.pi) + np.linalg.slogdet(dense[k])[1]
        log.append(math.log(float(mixture.weights[k])) - 0.5 * (distance + constant))
    return np.logaddexp.reduce(log, axis=0)


def by_scikit_learn(kind: str, what: str) -> Any:
    """Asked of scikit-learn's own class, in float64, with our parameters."""
    from gmm_torch.sklearn import GaussianMixture as DropIn

    other = DropIn(K, covariance_type=kind, dtype="float64").fit(points().double().numpy())
    other.mixture_ = copy.deepcopy(known(kind)).double()
    return getattr(other.to_sklearn(), what)(points().double().numpy())


def through_a_state_dict(kind: str) -> Tensor:
    """Parameters taken over from a state dict."""
    other = GaussianMixture(K, D, kind)
    other.load_state_dict(known(kind).state_dict())
    return other.log_prob(points())


def through_a_file(kind: str) -> Tensor:
    """Parameters taken over from a safetensors file."""
    path = folder("mixture") / "mixture.safetensors"
    save_file(known(kind).state_dict(), path)
    other = GaussianMixture(K, D, kind)
    other.load_state_dict(load_file(path))
    return other.log_prob(points())


def through_its_parameters(kind: str) -> Tensor:
    """Parameters read from the properties and set again."""
    mixture = known(kind)
    other = GaussianMixture(K, D, kind)
    other.set_parameters(mixture.weights, mixture.means, mixture.covariances)
    return other.log_prob(points())


def by_hand(x: Tensor) -> Answer:
    """The loop that `fit` runs, written out."""
    from gmm_torch.mixture.batches import Batches

    mixture = GaussianMixture(K, D)
    em = mixture.start_em(EMOptions(max_iter=7, tol=0.0, seed=3))
    while not em.done:
        em.advance(em.collect(Batches(x, D, x.device)))
    return parameters(mixture.adopt(em))


def by_a_trainer(x: Tensor) -> Answer:
    """The Lightning module, an epoch a pass."""
    import lightning

    from gmm_torch.lightning.mixture_module import MixtureModule

    mixture, options = GaussianMixture(K, D), EMOptions(max_iter=7, tol=0.0, seed=3)
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=20, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    module = MixtureModule(mixture, x, options)
    trainer.fit(module)
    return parameters(mixture.adopt(module.em))


def _share(rank: int, place: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{place}/meeting", rank=rank, world_size=2)
    torch.set_num_threads(1)
    mixture = fit(points()[: N // 3] if rank == 0 else points()[N // 3 :])
    if rank == 0:
        torch.save(mixture.state_dict(), Path(place) / "mixture.pt")
    dist.destroy_process_group()


def by_two_processes() -> Answer:
    """Each with its own share of the points."""
    place = folder("processes")
    run_processes(_share, (str(place),), 2)
    mixture = GaussianMixture(K, D)
    mixture.load_state_dict(torch.load(place / "mixture.pt", weights_only=True))
    return parameters(mixture)


def streamed(step: int, online: bool = False) -> Answer:
    """Stepwise EM, batch by batch, with all that it takes to start from in the first call or not."""
    mixture = GaussianMixture(K, D)
    if online:
        follower = mixture.start_online(seed=3, n_first=N // 2)
        for batch in points().split(step):
            follower.update(batch)
        mixture.assign(*follower.result())
    else:
        for batch in points().split(step):
            mixture.partial_fit(batch, seed=3, n_first=N // 2)
    return {"weights": mixture.weights, "means": mixture.means, "covariances": mixture.covariances}


def drop_in(x: np.ndarray, **options: Any) -> Answer:
    """scikit-learn's interface."""
    from gmm_torch.sklearn import GaussianMixture as DropIn

    given = {name: value.numpy() for name, value in start().items()}
    found = DropIn(K, tol=0.0, max_iter=7, **given, **options).fit(x)
    return {"weights": found.weights_, "means": found.means_, "covariances": found.covariances_}


def by_scikit_learns_own(x: np.ndarray) -> Answer:
    """scikit-learn's class, in float64."""
    from sklearn.mixture import GaussianMixture as Reference

    given = {name: value.numpy() for name, value in start().items()}
    found = Reference(K, tol=0.0, max_iter=7, **given).fit(x)
    return {"weights": found.weights_, "means": found.means_, "covariances": found.covariances_}


def table() -> list[Row]:
    """The rows of this theme."""
    ask = partial(asked, "mixture")
    rows: list[Row] = []
    twice = points().repeat_interleave(counts(), 0)
    other_way = {"rtol": 1e-4, "atol": 1e-4}  # float32 sums in another order, carried through seven iterations
    for kind in TYPES:
        at_once = partial(fitted, kind=kind)
        rows += ask(
            f"a {kind} fit",
            {
                "a tensor at once": lambda f=at_once: f(points()),
                "the same again": lambda f=at_once: f(points()),
                "an array": lambda f=at_once: f(points().numpy()),
                "batches of 64": Way(lambda f=at_once: f(list(points().split(64))), **other_way),
                "another order": Way(lambda f=at_once: f(points()[order()]), **other_way),
                "weights of one": Way(lambda f=at_once: f(points(), sample_weight=torch.ones(N)), **other_way),
                "weights of 1e-9": Way(
                    lambda f=at_once: f(points(), sample_weight=torch.full((N,), 1e-9)), **other_way
                ),
                "weights of 1e9": Way(lambda f=at_once: f(points(), sample_weight=torch.full((N,), 1e9)), **other_way),
                "two threads": Way(within(partial(threads, 2), lambda f=at_once: f(points())), **other_way),
                "float64": Way(lambda f=at_once: f(points().double(), dtype=torch.float64), **other_way),
            },
        )
        rows += ask(
            f"one iteration of {kind} EM",
            {
                "NumPy by brute force": lambda k=kind: sums(points(), k),
                "fit": near(lambda k=kind: one_iteration(k), 1e-9),
            },
        )
        rows += ask(
            f"a {kind} fit to points that are there several times",
            {
                "weights": lambda f=at_once, k=kind: f(points(), sample_weight=counts().double(), **_start(k)),
                "copies": Way(lambda f=at_once, k=kind: f(twice, **_start(k)), **other_way),
                "weights that are halved": Way(
                    lambda f=at_once, k=kind: f(points(), sample_weight=counts() / 2, **_start(k)), **other_way
                ),
                "without those of weight zero": Way(
                    lambda f=at_once, k=kind: f(
                        points()[counts() > 0], sample_weight=counts()[counts() > 0].double(), **_start(k)
                    ),
                    **other_way,
                ),
            },
        )
        density = lambda k=kind: known(k).log_prob(points())  # noqa: E731
        rows += ask(
            f"densities under a {kind} mixture",
            {
                "log_prob": density,
                "calling it": lambda k=kind: known(k)(points()),
                "logsumexp of log_joint": near(lambda k=kind: known(k).log_joint(points()).logsumexp(-1), 1e-6),
                "one point at a time": near(
                    lambda k=kind: torch.cat([known(k).log_prob(x[None]) for x in points()]), 1e-5
                ),
                "with a gradient": lambda k=kind: known(k).log_prob(points().clone().requires_grad_()).detach(),
                "under autocast": within(bfloat16, density),
                "inference mode": within(torch.inference_mode, density),
                "default float64": within(partial(default_dtype, torch.float64), density),
                "points not in one piece": near(lambda k=kind: known(k).log_prob(points().T.contiguous().T), 1e-6),
                "two threads": near(within(partial(threads, 2), density), 1e-6),
                "float64": near(lambda k=kind: copy.deepcopy(known(k)).double().log_prob(points().double()), 2e-5),
                "NumPy by brute force": near(lambda k=kind: brute_force(k, points()), 2e-5),
                "torch.distributions": near(lambda k=kind: known(k).to_distribution().log_prob(points()), 2e-5),
                "scikit-learn's score_samples": near(lambda k=kind: by_scikit_learn(k, "score_samples"), 2e-5),
                "a copy": lambda k=kind: copy.deepcopy(known(k)).log_prob(points()),
                "through a state dict": lambda k=kind: through_a_state_dict(k),
                "through a file": lambda k=kind: through_a_file(k),
                "through its parameters": near(lambda k=kind: through_its_parameters(k), 2e-5),
                "vmap": near(lambda k=kind: torch.func.vmap(known(k).log_prob)(points()[:, None])[:, 0], 1e-5),
                "torch.compile": near(lambda k=kind: torch.compile(known(k), backend="aot_eager")(points()), 1e-5),
            },
        )
        rows += ask(
            f"components under a {kind} mixture",
            {
                "predict": lambda k=kind: known(k).predict(points()),
                "largest of predict_proba": lambda k=kind: known(k).predict_proba(points()).argmax(-1),
                "largest of log_joint": lambda k=kind: known(k).log_joint(points()).argmax(-1),
                "one point at a time": lambda k=kind: torch.cat([known(k).predict(x[None]) for x in points()]),
                "scikit-learn": lambda k=kind: by_scikit_learn(k, "predict"),
                "under autocast": within(bfloat16, lambda k=kind: known(k).predict(points())),
            },
        )
        rows += ask(
            f"mean log-likelihood under a {kind} mixture",
            {
                "mean of log_prob": lambda k=kind: float(known(k).log_prob(points()).double().mean()),
                "score": lambda k=kind: known(k).score(points()),
                "score with equal weights": near(lambda k=kind: known(k).score(points(), torch.full((N,), 7.0)), 1e-12),
                "scikit-learn's score": near(lambda k=kind: float(by_scikit_learn(k, "score")), 1e-5),
                "from bic": near(
                    lambda k=kind: (known(k).n_parameters() * math.log(N) - known(k).bic(points())) / (2 * N), 1e-6
                ),
                "from aic": near(lambda k=kind: (2 * known(k).n_parameters() - known(k).aic(points())) / (2 * N), 1e-6),
            },
        )
    rows += ask(
        "a fit",
        {
            "a tensor at once": lambda: fitted(points()),
            "a memory map": lambda: fitted(memory_map()),
            "a big-endian array": lambda: fitted(points().numpy().astype(">f4")),
            "a big-endian memory map": lambda: fitted(memory_map(">f4")),
            "an array in Fortran's order": near(lambda: fitted(np.asfortranarray(points().numpy())), 1e-4),
            "an array with steps": near(lambda: fitted(np.repeat(points().numpy(), 2, 0)[::2]), 1e-4),
            "a read-only array": lambda: fitted(_read_only(points().numpy())),
            "a tensor with gradient": lambda: fitted(points().clone().requires_grad_()),
            "a DataLoader": near(lambda: fitted(DataLoader(TensorDataset(points()), 50)), 1e-4),
            "a shuffling DataLoader": near(lambda: fitted(_shuffling()), 1e-4),
            "a DataLoader with labels": near(lambda: fitted(DataLoader(TensorDataset(points(), counts()), 50)), 1e-4),
            "batches of uneven sizes, some empty": near(
                lambda: fitted(list(points().split([0, 1, 0, 400, 199]))), 1e-4
            ),
            "the loop written out": lambda: by_hand(points()),
            "a Trainer": near(lambda: by_a_trainer(points()), 1e-4),
            "under autocast": within(bfloat16, lambda: fitted(points())),
            "inference mode": within(torch.inference_mode, lambda: fitted(points())),
            "no_grad": within(torch.no_grad, lambda: fitted(points())),
            "default float64": near(within(partial(default_dtype, torch.float64), lambda: fitted(points())), 1e-4),
            "after another fit": lambda: parameters(_after_another_fit()),
            "after a stream": lambda: parameters(_after_a_stream()),
        },
    )
    rows += ask(
        "a fit that two processes share",
        {
            "one process": lambda: {k: v for k, v in fitted(points()).items() if k != "objective"},
            "two processes": near(lambda: {k: v for k, v in by_two_processes().items() if k != "objective"}, 1e-4),
        },
    )
    rows += ask(
        "a stream of points",
        {
            "partial_fit": lambda: streamed(100),
            "start_online": lambda: streamed(100, online=True),
            "under autocast": within(bfloat16, lambda: streamed(100)),
        },
    )
    rows += ask(
        "a fit after a stream",
        {"a fit": lambda: _then_stream(False), "a stream, a fit": near(lambda: _then_stream(True), 1e-6)},
    )
    rows += ask(
        "a fit from given values",
        {
            "scikit-learn": lambda: by_scikit_learns_own(points().double().numpy()),
            "the drop-in, float64": near(lambda: drop_in(points().double().numpy()), 1e-6),
            "the drop-in, float32": near(lambda: drop_in(points().numpy()), 1e-3),
            "gmm_torch": near(_from_given_values, 1e-6),
        },
    )
    rows += ask(
        "points that are drawn",
        {
            "sample": lambda: known("full").sample(50, 0),
            "rsample": lambda: known("full").rsample(50, 0).detach(),
            "under autocast": within(bfloat16, lambda: known("full").sample(50, 0)),
        },
    )
    return rows


def _start(kind: str) -> dict[str, Tensor]:
    shapes = {"full": torch.eye(D).repeat(K, 1, 1), "tied": torch.eye(D), "diag": torch.ones(K, D)}
    return {**start(), "precisions_init": shapes.get(kind, torch.ones(K)).double()}


def _read_only(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.flags.writeable = False
    return x


def _shuffling() -> DataLoader[Any]:
    return DataLoader(TensorDataset(points()), 50, shuffle=True, generator=torch.Generator().manual_seed(5))


def _after_another_fit() -> GaussianMixture:
    mixture = GaussianMixture(K, D).fit(points() * 9 + 5, seed=1)
    return mixture.fit(points(), max_iter=7, tol=0.0, seed=3)


def _after_a_stream() -> GaussianMixture:
    mixture = GaussianMixture(K, D)
    mixture.partial_fit(points() * 9 + 5, n_first=N // 2)
    return mixture.fit(points(), max_iter=7, tol=0.0, seed=3)


def _then_stream(before: bool) -> Tensor:
    mixture = GaussianMixture(K, D)
    if before:
        mixture.partial_fit(points() * 9 + 5, n_first=N // 2)
    mixture.fit(points(), max_iter=7, tol=0.0, seed=3)
    mixture.partial_fit(points()[:100])
    return mixture.means


def _from_given_values() -> Answer:
    found = fitted(points().double(), dtype=torch.float64, reg_mode="absolute", **start())
    del found["objective"]
    return found
