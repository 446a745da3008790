"""Linear factor models and their relatives: what scikit-learn lacks."""

from labutils.factor_models.signs import fix_signs
from labutils.factor_models.slow_features import SlowFeatureAnalysis
from labutils.factor_models.sparse_coding import LISTA, fista, ista, kkt_violation, lasso_objective

__all__ = ["LISTA", "SlowFeatureAnalysis", "fista", "fix_signs", "ista", "kkt_violation", "lasso_objective"]
