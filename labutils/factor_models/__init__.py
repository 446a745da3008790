"""Linear factor models and their relatives: what scikit-learn lacks."""

from labutils.factor_models.signs import fix_signs
from labutils.factor_models.slow_features import SlowFeatureAnalysis

__all__ = ["SlowFeatureAnalysis", "fix_signs"]
