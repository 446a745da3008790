"""Linear factor models beyond scikit-learn's."""

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
