"""The instructor's door: reading, running, publishing and handing out notebooks."""

import sys

# nbformat imports jsonschema, which imports, where it finds it, a parser of addresses that takes more than a second to
# build, for a format that no notebook has. None in its place says that it is not there.
sys.modules.setdefault("rfc3987_syntax", None)
