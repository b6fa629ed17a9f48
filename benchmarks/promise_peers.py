"""Other libraries behind the calls of `promises.py`: what each offers of the same kind, used as its documentation says.

A peer gets the scores of the repetition, higher = more typical, and gives what our own call gives. Peers that are not
installed are left out; nonconform needs Python 3.12.
"""

import importlib.util
import logging
import warnings
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor

LIBRARIES = {
    "nonconform": "nonconform",
    "MAPIE": "mapie",
    "crepes": "crepes",
    "online-fdr": "online_fdr",
    "river": "river",
}


class Identity:
    """A detector whose score is the only feature, for nonconform."""

    def fit(self, x: Any, y: Any = None) -> "Identity":
        """Nothing to learn."""
        return self

    def decision_function(self, x: Any) -> Any:
        """(n,)."""
        return x[:, 0]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """None."""
        return {}

    def set_params(self, **params: Any) -> "Identity":
        """None."""
        return self


def _conformal_detector(calibration: Tensor, estimation: Any = None) -> Any:
    from nonconform import ConformalDetector, Empirical, Split

    detector = ConformalDetector(
        detector=Identity(),
        strategy=Split(n_calib=0.5),  # of `fit`, which isn't called
        estimation=estimation or Empirical(),
        score_polarity="higher_is_normal",
    )
    return detector.calibrate(calibration.double().numpy()[:, None])


def nonconform_p_value(scores: Tensor, calibration: Tensor, seed: int) -> Tensor:
    """Empirical p-values."""
    return torch.as_tensor(_conformal_detector(calibration).compute_p_values(scores.double().numpy()[:, None]))


def crepes_p_value(scores: Tensor, calibration: Tensor, seed: int) -> Tensor:
    """Smoothed p-values, its default."""
    from crepes import ConformalClassifier

    predictor = ConformalClassifier().fit(-calibration.double().numpy())
    return torch.as_tensor(predictor.predict_p(-scores.double().numpy(), seed=seed))


@lru_cache
def _conditional(delta: float, method: str) -> Any:
    from nonconform.scoring import ConditionalEmpirical

    estimation = ConditionalEmpirical(delta=delta, method=method)
    estimation.set_seed(0)
    return estimation  # keeps the constant that it samples once


def nonconform_conditional(method: str) -> Callable[..., Tensor]:
    """Its p-values given the calibration set."""

    def p_value(scores: Tensor, calibration: Tensor, delta: float) -> Tensor:
        numbers = (-scores.double().numpy(), -calibration.double().numpy())
        return torch.as_tensor(_conditional(delta, method).compute_p_values(*numbers))

    return p_value


def nonconform_weighted_p_value(scores: Tensor, log_weight: Tensor, calibration: Tensor, log_weights: Tensor) -> Tensor:
    """Weighted p-values with weights of our own."""
    from nonconform.scoring import Empirical

    weights = log_weights.double().exp().numpy(), log_weight.double().exp().numpy()
    p = Empirical().compute_p_values(-scores.double().numpy(), -calibration.double().numpy(), weights)
    return torch.as_tensor(p)


def nonconform_discoveries(method: str) -> Callable[..., Tensor]:
    """Its selection in a batch: "bh" or "storey"."""

    def discoveries(scores: Tensor, calibration: Tensor, q: float) -> Tensor:
        x = scores.double().numpy()[:, None]
        return torch.as_tensor(_conformal_detector(calibration).select(x, alpha=q, method=method))

    return discoveries


def nonconform_weighted_discoveries(pruning: str) -> Callable[..., Tensor]:
    """Its weighted conformal selection; the default of pruning is "DETERMINISTIC"."""

    def discoveries(
        scores: Tensor, log_weight: Tensor, calibration: Tensor, log_weights: Tensor, q: float, seed: int
    ) -> Tensor:
        from nonconform.fdr import Pruning, weighted_false_discovery_control_from_arrays

        found = weighted_false_discovery_control_from_arrays(
            p_values=nonconform_weighted_p_value(scores, log_weight, calibration, log_weights).numpy(),
            test_scores=-scores.double().numpy(),
            calib_scores=-calibration.double().numpy(),
            test_weights=log_weight.double().exp().numpy(),
            calib_weights=log_weights.double().exp().numpy(),
            alpha=q,
            pruning=getattr(Pruning, pruning),
            seed=seed,
        )
        return torch.as_tensor(found)

    return discoveries


def nonconform_bounds(p_values: Tensor, n: int, delta: float) -> tuple[Tensor, Tensor]:
    """Thresholds, and how many good inputs are at most among the p-values up to each; with its default envelope."""
    from nonconform.fdr import FDPCertificate

    found = FDPCertificate.from_p_values(p_values.numpy(), n_calibration=n, confidence=1 - delta)
    good = np.asarray(found.fdp_upper_bounds) * np.asarray(found.rejection_counts)
    return torch.as_tensor(np.array(found.thresholds)), torch.as_tensor(good + 1e-9).floor()


def nonconform_e_values(scores: Tensor, calibration: Tensor, q: float) -> Tensor:
    """Its e-values of one split, at its default inner level, with e-BH."""
    from nonconform.fdr import conformal_e_values, e_value_false_discovery_control

    arrays = (-scores.double().numpy(), -calibration.double().numpy())
    e = conformal_e_values(*arrays, alpha_bh=q / 10, tie_seed=0)
    return torch.as_tensor(e_value_false_discovery_control(e, alpha=q))


def online_fdr(name: str, **options: float) -> Callable[..., Tensor]:
    """A procedure of online-fdr on the same p-values; wealth is in units of q."""

    def found(p_values: Tensor, q: float, smallest: float) -> Tensor:
        from online_fdr import p_values as procedures

        test = getattr(procedures, name)(q, wealth=q / 2, **options)
        return torch.tensor([bool(test.test_one(p)) for p in p_values.tolist()])

    return found


def nonconform_stream(reference: Tensor, stream: Tensor, threshold: float, seed: int) -> bool:
    """Its simple jumper on sequential ranks that begin with the reference; its restarted Ville alarm."""
    from nonconform.martingales import AlarmConfig, SimpleJumperMartingale
    from nonconform.monitoring import SequentialRankConformalizer

    ranks = SequentialRankConformalizer(tail="lower", seed=seed)
    ranks.prime_many(reference.double().numpy())
    martingale = SimpleJumperMartingale(alarm_config=AlarmConfig(restarted_ville_threshold=threshold))
    states = martingale.update_many(ranks.update_many(stream.double().numpy()))
    return any(state.triggered_alarms for state in states)


def crepes_stream(reference: Tensor, stream: Tensor, threshold: float, seed: int) -> bool:
    """Its simple jumper on p-values of online calibration that begin with the reference."""
    from crepes import ConformalRegressor
    from crepes.martingales import SimpleJumper

    reference, stream = ((-each.double()).exp().numpy() for each in (reference, stream))  # residuals: >= 0
    predictor = ConformalRegressor().fit(reference)
    p = predictor.predict_p_online(np.zeros(len(stream)), stream, seed=seed)
    return bool(SimpleJumper().apply(p, c=threshold) < len(stream))


def mapie_stream(reference: Tensor, stream: Tensor, threshold: float, seed: int) -> bool:
    """Its jumper martingale, which bets on the reference too."""
    from mapie.exchangeability_testing import OnlineMartingaleTest
    from mapie.regression import SplitConformalRegressor

    test = OnlineMartingaleTest(
        SplitConformalRegressor(_zero(), prefit=True), test_level=1 / threshold, warn=False, random_state=seed
    )
    for each in (reference, stream):
        residuals = (-each.double()).exp().numpy()
        test.update(np.zeros((len(residuals), 1)), residuals)
    return test.is_exchangeable is False


@lru_cache
def _zero() -> Any:
    from sklearn.dummy import DummyRegressor

    return DummyRegressor(strategy="constant", constant=0.0).fit(np.zeros((2, 1)), np.zeros(2))


def mapie_adaptive(p_values: Tensor, target: float, rate: float) -> Tensor:
    """Refused by adaptive conformal inference, where a residual of either sign stands for a p-value; scores follow."""
    from mapie.regression import TimeSeriesRegressor

    n = 999
    sign = np.where(np.arange(max(n, len(p_values))) % 2, 1.0, -1.0)
    model = TimeSeriesRegressor(_zero(), method="aci", cv="prefit")
    model.fit(np.zeros((n, 1)), sign[:n] * np.arange(1, n + 1) / (n + 1))
    residuals = sign[: len(p_values)] * (1 - p_values.double().numpy())
    x, refused = np.zeros((1, 1)), []
    model.predict(x, confidence_level=1 - target, allow_infinite_bounds=True)
    for residual in residuals:
        before = next(iter(model.current_alpha.values()))
        model.adapt_conformal_inference(x, residual[None], gamma=rate)
        refused.append(next(iter(model.current_alpha.values())) < before)  # alpha falls where it wasn't covered
        model.update(x, residual[None])
    return torch.tensor(refused)


def mapie_risk(errors: Tensor, target: float, delta: float) -> bool:
    """Its risk monitor, with a threshold given and no tolerance."""
    from mapie.exchangeability_testing import RiskMonitoring
    from mapie.risk_control import BinaryRisk

    wrong = BinaryRisk(lambda y, p: y != p, lambda y, p: np.repeat(True, len(y)), higher_is_better=False)
    monitor = RiskMonitoring(wrong, test_level=delta, threshold=target, warn=False)
    monitor.update(errors.int().numpy(), np.zeros(len(errors), dtype=int))
    return bool(monitor.harmful_shift_detected)  # its lower bound is the highest so far


def mapie_threshold(scores: Tensor, errors: Tensor, target: float, delta: float) -> float | None:
    """Its binary controller of precision, with its default thresholds and correction; scores in [0, 1]."""
    from mapie.risk_control import BinaryClassificationController

    controller = BinaryClassificationController(
        lambda x: np.stack([1 - x[:, 0], x[:, 0]], 1), "precision", 1 - target, confidence_level=1 - delta
    )
    controller.calibrate(scores.double().numpy()[:, None], (~errors).int().numpy())
    return controller.best_predict_param


# What `promises.py` calls -> library -> words where one library offers several -> the peer.
PEERS: dict[str, dict[str, dict[str, Callable[..., Any]]]] = {
    "p_value": {"nonconform": {"": nonconform_p_value}, "crepes": {"": crepes_p_value}},
    "conditional": {"nonconform": {"mc": nonconform_conditional("mc"), "simes": nonconform_conditional("simes")}},
    "discoveries": {"nonconform": {"": nonconform_discoveries("bh")}},
    "storey": {"nonconform": {"": nonconform_discoveries("storey")}},
    "bounds": {"nonconform": {"": nonconform_bounds}},
    "e_values": {"nonconform": {"": nonconform_e_values}},
    "online": {
        "online-fdr": {
            "LORD++": online_fdr("LordPlusPlus"),
            "SAFFRON": online_fdr("Saffron", lambda_=0.5),
            "ADDIS": online_fdr("Addis", lambda_=0.25, tau=0.5),
        }
    },
    "stream": {
        "nonconform": {"": nonconform_stream},
        "MAPIE": {"": mapie_stream},
        "crepes": {"": crepes_stream},
    },
    "adaptive": {"MAPIE": {"": mapie_adaptive}},
    "risk": {"MAPIE": {"": mapie_risk}},
    "weighted_p_value": {"nonconform": {"": nonconform_weighted_p_value}},
    "weighted_discoveries": {
        "nonconform": {
            "": nonconform_weighted_discoveries("DETERMINISTIC"),
            "at random": nonconform_weighted_discoveries("HOMOGENEOUS"),
        }
    },
    "threshold": {"MAPIE": {"": mapie_threshold}},
}


def installed() -> dict[str, str]:
    """Versions of the libraries that are there."""
    return {name: version(name) for name, module in LIBRARIES.items() if importlib.util.find_spec(module)}


def peers(call: str) -> dict[tuple[str, str], Callable[..., Any]]:
    """(library, words) -> peer, of those that are installed."""
    here = installed()
    return {
        (library, words): peer
        for library, offered in PEERS[call].items()
        for words, peer in offered.items()
        if library in here
    }


def quiet() -> None:
    """Silence what peers print."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
