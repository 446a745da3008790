"""The sign of a component is arbitrary; this settles it the same way everywhere."""

import numpy as np

_TIE = 1e-6  # relative difference of entries that may be rounding, also in float32


def fix_signs(components):
    """Turn each component so that its entry of largest absolute value is positive.

    Eigenvectors, loadings and sources are determined up to their sign; this settles it the same way
    everywhere in the course. Where several entries are the largest, to a millionth, the first of them decides:
    in (1, -1) / sqrt(2) rounding would otherwise, and the sign would change from one machine to the next.

    Parameters
    ----------
    components : array-like, shape (n_components, n_features)
        One component a row.

    Returns
    -------
    numpy.ndarray, shape (n_components, n_features)
        A copy.

    Raises
    ------
    ValueError
        If `components` is no table.
    """
    components = np.array(components, dtype=float)
    if components.ndim != 2:
        raise ValueError(f"components must have the shape (n_components, n_features), got {components.shape}")
    sizes = np.abs(components)
    first = (sizes >= (1 - _TIE) * sizes.max(axis=1, keepdims=True)).argmax(axis=1)
    signs = np.where(components[np.arange(len(components)), first] < 0, -1.0, 1.0)
    return components * signs[:, None]
