"""``python -m intff_lightning.reproduce NAME``: the paper's tables and figures."""

import sys

from intff_lightning.reproduce.command import main

sys.exit(main())
