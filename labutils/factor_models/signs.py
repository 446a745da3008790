"""The sign of a component is arbitrary; this settles it the same way everywhere."""

import numpy as np


def fix_signs(components):
    """Turn each component so that its entry of largest absolute value is positive.

    Eigenvectors, loadings and sources are determined up to their sign; this settles it the same way
    everywhere in the course.

    Parameters
    ----------
    components : array-like, shape (n_components, n_features)
        One component a row.

    Returns
    -------
    numpy.ndarray, shape (n_components, n_features)
        A copy.
    """
    components = np.array(components, dtype=float)
    if components.ndim != 2:
        raise ValueError(f"components must have the shape (n_components, n_features), got {components.shape}")
    largest = np.abs(components).argmax(axis=1, keepdims=True)
    signs = np.where(np.take_along_axis(components, largest, axis=1) < 0, -1.0, 1.0)
    return components * signs
