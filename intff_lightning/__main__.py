"""``python -m intff_lightning``."""

from intff_lightning.cli import main

raise SystemExit(main())
