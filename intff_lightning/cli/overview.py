"""The help of the whole command line; that of a command is in its parser."""

import argparse

DESCRIPTION = """Train networks with the Integrated Forward-Forward algorithm: local losses, no global backward pass.

  intff fit --config digits
  intff fit --config mnist --data.data_dir DIR --trainer.max_epochs 5
  intff test --ckpt_path lightning_logs/version_0/checkpoints/best.ckpt
  intff predict --ckpt_path lightning_logs/version_0/checkpoints/best.ckpt
  intff predict --ckpt_path pretrained:mnist --images FILE_OR_FOLDER
  intff configs
  intff report lightning_logs/version_0 lightning_logs/version_1

`intff` and `python -m intff_lightning` are the same. --config takes a file, or the name of a packaged config. Every
argument of a config file is also an option, and `COMMAND --config FILE --print_config` shows them all. `intff configs`
lists the packaged configs, and --ckpt_path pretrained:NAME takes a trained network that comes with the package.
`intff --version` prints the version."""

COMMANDS = {
    "fit": "Train a network, and test its best weights.",
    "validate": "Evaluate a checkpoint on the validation data.",
    "test": "Evaluate a checkpoint on the test data.",
    "predict": "Write the class of every image that is to be predicted.",
    "configs": "List the packaged configs.",
    "report": "Write a page about a run, or one that compares runs.",
}


def overview() -> argparse.ArgumentParser:
    """Return a parser that knows the commands alone."""
    parser = argparse.ArgumentParser(
        prog="intff", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", description="COMMAND --help shows its options."
    )
    for name, text in COMMANDS.items():
        commands.add_parser(name, help=text)
    return parser
