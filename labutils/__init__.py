"""Helper package of the course: data, models, training, and what a notebook cell calls.

Modules
-------
data       where the images come from
recurrent  the two recurrent classifiers of the lab
training   one training loop for all models
lesson     what a notebook cell calls: parameters, figures, records, checks
execution  one notebook in a kernel of its own, here or in a worker
records    table, summary and plot of what notebooks recorded
sweeps     many runs, on this machine or on a Dask cluster
course     running, validating and publishing the notebooks (``python -m labutils``)
"""

__version__ = "0.1.0"
