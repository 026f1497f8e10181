"""The command line without the ink of its figures, which takes most of the time of a short run."""

import sys

import pytest
from conftest import save_blank_figures

from intff_lightning.cli import main

if __name__ == "__main__":
    save_blank_figures(pytest.MonkeyPatch())
    sys.exit(main())
