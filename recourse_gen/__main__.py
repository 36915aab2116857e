"""``python -m recourse_gen``, the same as ``recourse-gen``."""

import sys

from recourse_gen.cli import main

sys.exit(main())
