"""``python -m intff_lightning.report LOGDIR``."""

from intff_lightning.reporting.report import main

if __name__ == "__main__":
    raise SystemExit(main())
