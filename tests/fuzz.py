"""How long property tests try: the same examples on every push, and others, many more, in the weekly run."""

import os

from hypothesis import settings

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "2000"))
fuzz = settings(max_examples=EXAMPLES, derandomize="FUZZ_EXAMPLES" not in os.environ, deadline=None)
