"""Linear factor models beyond scikit-learn's."""

import subprocess
import sys

import numpy as np
import pytest

from labutils import factor_models


def test_largest_entry_of_each_component_becomes_positive():
    components = np.array([[1.0, -3.0], [2.0, 1.0], [0.0, 0.0]])
    before = components.copy()
    np.testing.assert_array_equal(factor_models.fix_signs(components), [[-1.0, 3.0], [2.0, 1.0], [0.0, 0.0]])
    np.testing.assert_array_equal(components, before)


def test_components_that_are_no_table_are_refused():
    with pytest.raises(ValueError, match="components must have the shape"):
        factor_models.fix_signs(np.ones(3))


@pytest.mark.parametrize("size", [1, 1e-8, 1e8])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_rounding_does_not_turn_a_component_of_equal_entries(size, dtype):
    """Of entries that are equal up to rounding the first decides, whichever comes out larger."""
    eps = np.finfo(dtype).eps
    for first, second in ((1, 1), (1, 1 + 4 * eps), (1 + 4 * eps, 1)):
        for sign in (1, -1):
            component = sign * size * np.array([[0.1, -first, second]], dtype=dtype)
            turned = factor_models.fix_signs(component)
            assert turned[0, 1] > 0
            assert turned[0, 2] < 0


def test_an_entry_that_is_clearly_larger_decides_though_it_comes_later():
    np.testing.assert_array_equal(factor_models.fix_signs([[1, -1.00001]]), [[-1, 1.00001]])


def test_signs_of_a_symmetric_problem_do_not_depend_on_the_last_digit():
    X = np.random.default_rng(0).standard_normal((50, 1)) * [1.0, -1.0]
    answers = set()
    for seed in range(20):
        moved = X * (1 + 1e-15 * np.random.default_rng(seed).standard_normal(X.shape))
        axes = np.linalg.svd(moved - moved.mean(axis=0))[2]
        answers.add(tuple(np.sign(factor_models.fix_signs(axes[:1])[0])))
    assert answers == {(1.0, -1.0)}


def test_networks_are_fetched_when_they_are_asked_for():
    code = (
        "import sys\n"
        "import numpy as np\n"
        "from labutils import factor_models, gabor\n"
        "X, D = np.eye(3), np.eye(3)\n"
        "factor_models.fista(X, D, 0.1)\n"
        "factor_models.kkt_violation(X, D, 0.1, X)\n"
        "factor_models.TopographicICA(radius=0, random_state=0).fit(np.random.default_rng(0).laplace(size=(99, 2)))\n"
        "factor_models.SlowFeatureAnalysis().fit(np.random.default_rng(0).laplace(size=(99, 2)))\n"
        "assert 'torch' not in sys.modules, 'torch'\n"
        "assert {'LISTA', 'NICE'} < set(factor_models.__all__)\n"
        "from labutils.factor_models import LISTA, NICE\n"
        "LISTA(D, 0.1, 2), NICE(2)\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'FISTA'"):
        factor_models.FISTA  # noqa: B018
