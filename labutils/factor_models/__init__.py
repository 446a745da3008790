"""Linear factor models and their relatives: what scikit-learn lacks."""

from labutils.factor_models.signs import fix_signs

__all__ = ["fix_signs"]
