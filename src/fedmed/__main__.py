"""``python -m fedmed`` is the command ``fedmed``."""

import sys

from fedmed.cli.app import main

sys.exit(main())
