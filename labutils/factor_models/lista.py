"""LISTA: an encoder that learns sparse codes."""

import numpy as np
import torch
from torch import nn

from labutils.factor_models.sparse_coding import check_dictionary, largest_eigenvalue
from labutils.rules import check_counts, check_numbers


class LISTA(nn.Module):
    """Learned ISTA: a network whose layers are steps of `ista` with weights that can be trained.

    A layer computes ``h = shrink(x @ W_e.T + h @ S.T, theta)``, starting from h = 0, with ``shrink(z, theta) =
    sign(z) * max(abs(z) - theta, 0)``. All layers share the weights. At first ``W_e = dictionary / L``,
    ``S = I - dictionary @ dictionary.T / L`` and ``theta = alpha / L``, with which the layers are the steps of
    `ista`; training fits them to the data, so that few layers come as close as many steps.

    Parameters
    ----------
    dictionary : array-like, shape (n_components, n_features)
        One atom a row. The weights take its dtype, float32 or float64.
    alpha : float
        Weight of the L1 penalty, at least 0.
    n_layers : int
        Number of steps.

    Attributes
    ----------
    W_e : torch.nn.Parameter, shape (n_components, n_features)
    S : torch.nn.Parameter, shape (n_components, n_components)
    theta : torch.nn.Parameter, shape (n_components,)

    Raises
    ------
    ValueError
        If an argument is not finite, has the wrong shape, or lies outside its range.

    References
    ----------
    Gregor and LeCun, "Learning fast approximations of sparse coding", ICML 2010, algorithm 3.
    """

    def __init__(self, dictionary, alpha, n_layers):
        super().__init__()
        dictionary = check_dictionary(dictionary)
        check_numbers(at_least=0, alpha=alpha)
        check_counts(n_layers=n_layers)
        step = 1 / largest_eigenvalue(dictionary)
        self.n_layers = n_layers
        self.W_e = nn.Parameter(torch.from_numpy(step * dictionary))
        self.S = nn.Parameter(
            torch.from_numpy(np.eye(len(dictionary), dtype=step.dtype) - step * dictionary @ dictionary.T)
        )
        self.theta = nn.Parameter(torch.full((len(dictionary),), float(step * alpha), dtype=self.W_e.dtype))

    def forward(self, X):
        """Codes (n_samples, n_components) of the samples (n_samples, n_features), a tensor of the weights' dtype."""
        n_features = self.W_e.shape[1]
        if not isinstance(X, torch.Tensor):
            raise TypeError(f"X must be a torch tensor, got {type(X).__name__}; torch.as_tensor makes one")
        if X.ndim != 2 or X.shape[1] != n_features:
            raise ValueError(f"X must have the shape (n_samples, {n_features}), got {tuple(X.shape)}")
        if X.dtype != self.W_e.dtype:
            raise ValueError(
                f"X must have the dtype of the dictionary, {self.W_e.dtype}, got {X.dtype}; "
                "convert one of them"
            )
        drive = X @ self.W_e.T
        h = self._shrink(drive)
        for _ in range(self.n_layers - 1):
            h = self._shrink(drive + h @ self.S.T)
        return h

    def _shrink(self, z):
        return torch.sign(z) * torch.relu(torch.abs(z) - self.theta)
