"""Linear factor models and their relatives: what scikit-learn lacks."""

from labutils.factor_models.nice import NICE
from labutils.factor_models.signs import fix_signs
from labutils.factor_models.topographic_ica import TopographicICA, block_neighbourhood, grid_neighbourhood

__all__ = ["NICE", "TopographicICA", "block_neighbourhood", "fix_signs", "grid_neighbourhood"]
