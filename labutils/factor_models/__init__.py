"""Linear factor models and their relatives: what scikit-learn lacks."""

import importlib

from labutils.factor_models.rank import rounding_floor
from labutils.factor_models.signs import fix_signs
from labutils.factor_models.slow_features import SlowFeatureAnalysis
from labutils.factor_models.sparse_coding import fista, ista, kkt_violation, lasso_objective
from labutils.factor_models.topographic_ica import TopographicICA, block_neighbourhood, grid_neighbourhood

_NETWORKS = {"LISTA": "lista", "NICE": "nice"}  # fetched when asked for, since they need torch

__all__ = [
    "LISTA",
    "NICE",
    "SlowFeatureAnalysis",
    "TopographicICA",
    "block_neighbourhood",
    "fista",
    "fix_signs",
    "grid_neighbourhood",
    "ista",
    "kkt_violation",
    "lasso_objective",
    "rounding_floor",
]


def __getattr__(name):
    if name not in _NETWORKS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_NETWORKS[name]}"), name)
