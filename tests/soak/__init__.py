"""What runs for hours: not part of `make test`. The tests' own tools are imported by their bare names, as there."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1])]
