"""Linear factor models and their relatives: what scikit-learn lacks."""

from labutils.factor_models.nice import NICE
from labutils.factor_models.signs import fix_signs
from labutils.factor_models.slow_features import SlowFeatureAnalysis
from labutils.factor_models.sparse_coding import LISTA, fista, ista, kkt_violation, lasso_objective
from labutils.factor_models.topographic_ica import TopographicICA, block_neighbourhood, grid_neighbourhood

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
]
