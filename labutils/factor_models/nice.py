"""NICE: an invertible network with the exact log-likelihood of the data."""

import torch
from torch import nn
from torch.nn import functional as F

from labutils.rules import check_counts

PRIORS = ("logistic", "gaussian")


class NICE(nn.Module):
    """Nonlinear independent components estimation: additive coupling layers, then a scaling.

    Each coupling keeps one half of the features and adds to the other half a function of it, computed by a
    network with ReLU units. Even- and odd-numbered features take turns. Every coupling is inverted by
    subtracting again and leaves all volumes as they are, so that only the scaling h_d = exp(log_scale_d) y_d
    enters

        log p(x) = sum_d log p(h_d) + sum_d log_scale_d        (Dinh, Krueger and Bengio 2014, section 3).

    The last layer of each network starts at zero, so an untrained model is the identity.

    Parameters
    ----------
    n_features : int
        At least 2.
    n_couplings : int
        At least 2, so that every feature is moved; three or more let all features act on each other.
    hidden_dim, n_hidden : int
        Width and number of the hidden layers in each coupling's network.
    prior : {"logistic", "gaussian"}
        Density p of each latent variable, of location 0 and scale 1.

    Attributes
    ----------
    shifts : torch.nn.ModuleList
        The couplings' networks, each from one half of the features to the other. The first adds to the
        odd-numbered features.
    log_scale : torch.nn.Parameter, shape (n_features,)

    References
    ----------
    Dinh, Krueger and Bengio, "NICE: non-linear independent components estimation", arXiv:1410.8516, 2014.
    """

    def __init__(self, n_features, n_couplings=4, hidden_dim=64, n_hidden=2, prior="logistic"):
        super().__init__()
        check_counts(at_least=2, n_features=n_features, n_couplings=n_couplings)
        check_counts(hidden_dim=hidden_dim, n_hidden=n_hidden)
        if prior not in PRIORS:
            raise ValueError(f"prior must be one of {', '.join(PRIORS)}, got {prior!r}")
        self.n_features, self.prior = int(n_features), prior
        sizes = (n_features + 1) // 2, n_features // 2  # of even- and odd-numbered features
        self.shifts = nn.ModuleList(
            _network(sizes[number % 2], sizes[1 - number % 2], hidden_dim, n_hidden)
            for number in range(n_couplings)
        )
        self.log_scale = nn.Parameter(torch.zeros(n_features))
        halves = torch.arange(0, n_features, 2), torch.arange(1, n_features, 2)
        self.register_buffer("_places", torch.cat(halves).argsort(), persistent=False)

    def forward(self, x):
        """Latent variables of x.

        Parameters
        ----------
        x : torch.Tensor, shape (n, n_features)
            Of the parameters' dtype.

        Returns
        -------
        torch.Tensor, shape (n, n_features)
        """
        self._check(x, "x")
        halves = [x[:, ::2], x[:, 1::2]]
        for number, shift in enumerate(self.shifts):
            kept, moved = number % 2, 1 - number % 2
            halves[moved] = halves[moved] + shift(halves[kept])
        return self._join(halves) * self.log_scale.exp()

    def inverse(self, h):
        """The x whose latent variables are h.

        Parameters
        ----------
        h : torch.Tensor, shape (n, n_features)

        Returns
        -------
        torch.Tensor, shape (n, n_features)
        """
        self._check(h, "h")
        y = h * (-self.log_scale).exp()
        halves = [y[:, ::2], y[:, 1::2]]
        for number, shift in reversed(list(enumerate(self.shifts))):
            kept, moved = number % 2, 1 - number % 2
            halves[moved] = halves[moved] - shift(halves[kept])
        return self._join(halves)

    def log_prob(self, x):
        """Exact log-density of each sample.

        Parameters
        ----------
        x : torch.Tensor, shape (n, n_features)

        Returns
        -------
        torch.Tensor, shape (n,)
            In nats. Divide by ``-n_features * log(2)`` for bits per dimension.
        """
        h = self(x)
        if self.prior == "logistic":
            log_density = F.logsigmoid(h) + F.logsigmoid(-h)
        else:
            log_density = torch.distributions.Normal(0.0, 1.0).log_prob(h)
        return log_density.sum(dim=1) + self.log_scale.sum()

    @torch.no_grad()
    def sample(self, n, generator=None):
        """Draw samples: latent variables from the prior, through the inverse.

        Parameters
        ----------
        n : int
        generator : torch.Generator, optional
            On the parameters' device; by default torch's global one.

        Returns
        -------
        torch.Tensor, shape (n, n_features)
        """
        check_counts(n=n)
        size, like = (n, self.n_features), self.log_scale
        options = {"generator": generator, "dtype": like.dtype, "device": like.device}
        if self.prior == "gaussian":
            return self.inverse(torch.randn(size, **options))
        u = torch.rand(size, **options).clamp(min=torch.finfo(like.dtype).tiny)  # rand can return 0
        return self.inverse(torch.logit(u))

    def _join(self, halves):
        """Put even- and odd-numbered features back in their places."""
        return torch.cat(halves, dim=1)[:, self._places]

    def _check(self, values, name):
        if not isinstance(values, torch.Tensor) or values.ndim != 2 or values.shape[1] != self.n_features:
            shape = tuple(values.shape) if isinstance(values, torch.Tensor) else type(values).__name__
            raise ValueError(f"{name} must be a tensor of shape (n, {self.n_features}), got {shape}")
        if values.dtype != self.log_scale.dtype:
            raise ValueError(
                f"{name} must have the model's dtype, {self.log_scale.dtype}, got {values.dtype}"
            )


def _network(n_in, n_out, hidden_dim, n_hidden):
    """Hidden layers of ReLU units, and a last layer that starts at zero."""
    layers = [nn.Linear(n_in, hidden_dim), nn.ReLU()]
    for _ in range(n_hidden - 1):
        layers += [nn.Linear(hidden_dim, hidden_dim), nn.ReLU()]
    last = nn.Linear(hidden_dim, n_out)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)
