"""Helper package of the course: data, models, training, and what a notebook cell calls.

Modules
-------
data       where the images come from
recurrent  the two recurrent classifiers of the lab
training   one training loop for all models
lesson     what a notebook cell calls: parameters, figures, records, checks
course     running, validating and publishing the notebooks (``python -m labutils``)
"""

__version__ = "0.1.0"
