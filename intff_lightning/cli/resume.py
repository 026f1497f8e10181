"""Which checkpoint ``--ckpt_path`` means, and whether a run may resume from it."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.cli import LightningArgumentParser

from intff_lightning.checkpoints import read_checkpoint
from intff_lightning.errors import CheckpointError, ConfigurationError
from intff_lightning.files import is_locked
from intff_lightning.lightning_compat import is_first_process, parse_given
from intff_lightning.pretrained import PREFIX, find_weights
from intff_lightning.recipe import differences

RUNS = "lightning_logs"
"""Folder of the runs of the default loggers, in ``default_root_dir``."""

_PARTS = ("model", "data", "probe", "help", "h", "print_config")
_FREE = ("data_dir", "num_workers")  # options of data that change nothing that is trained
_FOUND = ("input_shape", "num_classes", "vocabulary", "target_range", "preprocessing")
"""Arguments that the data supply if nobody gives them."""


def with_checkpoint(parser: LightningArgumentParser, argv: list[str]) -> list[str]:
    """Resolve ``--ckpt_path``; put the recipes of the checkpoint before the user's arguments, which override them.

    ``last`` and ``best`` are the newest files of these names in the folders of the loggers and callbacks that the
    arguments ask for, and ``pretrained:NAME`` is a file that comes with the package. ``fit --ckpt_path last`` takes a
    file of the same recipes and seed only, and none of a run that is still in progress. If there is no file, it starts
    from scratch.

    Raises:
        ConfigurationError: There is no such file.
        CheckpointError: The file is damaged, or belongs to another run.
    """
    given = parse_given(parser, list(_without_parts(argv))) if _may_name_a_checkpoint(argv) else {}
    options: dict[str, Any] = given.get(argv[0] if argv else "") or {}
    name = options.get("ckpt_path")
    if name is None or name.split(":")[0] in ("hpc", "registry"):  # Lightning resolves these
        return argv
    fit, folders = argv[0] == "fit", _folders(options.get("trainer") or {})
    if name.startswith(PREFIX):
        found = [find_weights(name.removeprefix(PREFIX))]
        if fit:
            raise ConfigurationError(
                f"--ckpt_path {name}: fit resumes a run, and this holds weights alone. To fine-tune them, in Python:\n"
                f'trainer.fit(IntFFModule.from_pretrained("{name.removeprefix(PREFIX)}").train(), data)'
            )
    elif name not in ("last", "best"):
        if not Path(name).is_file():
            folder = Path(name).is_dir()
            what = f"{name} is a folder, and not a checkpoint" if folder else f"there is no file {name}"
            raise ConfigurationError(f"--ckpt_path: {what}.")
        found = [Path(name)]
    else:
        found = newest_first(name, folders)
    where = ", ".join(dict.fromkeys(str(folder) for folder, _ in folders))
    if fit and name == "last":
        same = _same_run(parser, argv, [path for path in found if not is_locked(path.parent)], options)
        if same is None:
            _say(f"there is no last.ckpt in {where} yet: this run starts from scratch", sys.stderr)
            return [*argv, "--ckpt_path", "null"]
        path, argv = same
    elif found:
        path, argv = found[0], _merge(argv, found[0], read_checkpoint(found[0]), options)
    else:
        raise ConfigurationError(f"--ckpt_path {name}: there is no file {name}.ckpt in {where}.")
    if fit and not any(argument.startswith("--print_config") for argument in argv):
        _say(f"resuming from {path}, step {read_checkpoint(path)['global_step']}", sys.stdout)
    return argv


def _say(text: str, stream: Any) -> None:
    if is_first_process():
        print(text, file=stream, flush=True)


# -------------------------------------------------------------------- what was given


def _may_name_a_checkpoint(argv: list[str]) -> bool:
    """Tell whether arguments, or configs that they name, contain ``ckpt_path``: parsing them takes a while."""
    values = [value for argument in argv for value in (argument, argument.partition("=")[2])]
    files = (Path(value) for value in values if value.endswith((".yaml", ".yml", ".json")))
    return any("ckpt_path" in value for value in argv) or any(
        "ckpt_path" in file.read_text() for file in files if file.is_file()
    )


def _without_parts(argv: list[str]) -> Iterator[str]:
    """Leave out options of the network and its data, which need the classes that a checkpoint may supply, and help."""
    left_out = False
    for argument in argv:
        if argument.startswith("-"):
            left_out = argument.lstrip("-").partition("=")[0].partition(".")[0] in _PARTS
        if not left_out:
            yield argument


# -------------------------------------------------------------------- files


def _folders(trainer: dict[str, Any]) -> list[tuple[Path, str]]:
    """Return where the loggers and callbacks of these options put checkpoints: folders, and patterns below them."""
    root = Path(trainer.get("default_root_dir") or ".")
    logger, callbacks = trainer.get("logger"), trainer.get("callbacks") or []
    if logger is False:
        places = [(root, "checkpoints*")]
    elif logger is None or logger is True:
        places = [(root / RUNS, "version_*/checkpoints*")]
    else:
        places = []
        for each in logger if isinstance(logger, list) else [logger]:
            options = each.get("init_args") or {}
            depth = 3 + str(options.get("name") or "").count("/")  # save_dir/name/version/checkpoints at most
            folder = Path(options.get("save_dir") or root)
            places += [(folder, f"{'*/' * levels}checkpoints*") for levels in range(depth)]
    for callback in callbacks if isinstance(callbacks, list) else [callbacks]:
        dirpath = (callback.get("init_args") or {}).get("dirpath")
        places += [(Path(dirpath).parent, f"{Path(dirpath).name}*")] if dirpath else []
    return places


def newest_first(name: str, places: list[tuple[Path, str]]) -> list[Path]:
    """Return the files ``last.ckpt`` or ``best.ckpt``, or, if there is no ``last.ckpt``, all checkpoints."""
    folders = {folder for place, pattern in places for folder in place.glob(pattern)}
    found = [path for folder in folders for end in ("", "-v*") for path in folder.glob(f"{name}{end}.ckpt")]
    if not found and name == "last":
        found = [path for folder in folders for path in folder.rglob("*.ckpt")]
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


# -------------------------------------------------------------------- is it the same run?


def _merge(argv: list[str], path: Path, checkpoint: dict[str, Any], options: dict[str, Any]) -> list[str]:
    """Return arguments that begin with the recipes of a checkpoint, and end with its path."""
    seed = (checkpoint.get("training") or {}).get("seed")
    kept = ["--seed_everything", str(seed)] if seed is not None and options.get("seed_everything") is None else []
    recipes = yaml.safe_dump(checkpoint.get("recipes") or {})
    return [argv[0], "--config", recipes, *argv[1:], *kept, "--ckpt_path", str(path)]


def _same_run(
    parser: LightningArgumentParser, argv: list[str], found: list[Path], options: dict[str, Any]
) -> tuple[Path, list[str]] | None:
    """Return the first file that was written with the same recipes and seed, and the arguments that resume from it.

    A file from the middle of an accumulation is left out: it does not hold the gradients of its first batches.
    """
    reasons = []
    for path in found:
        checkpoint = read_checkpoint(path)
        merged = _merge(argv, path, checkpoint, options)
        recipes = checkpoint.get("recipes") or {}
        training = checkpoint.get("training") or {}
        if training.get("accumulated"):
            continue
        other = []
        if "model" in recipes:
            theirs = parser.parse_args([argv[0], "--config", yaml.safe_dump(recipes)])[argv[0]].as_dict()
            mine = parser.parse_args(merged)[argv[0]].as_dict()
            changed = [each for part in recipes for each in differences(mine.get(part), theirs.get(part), part)]
            other = [f"{key} is {a} here and {b} there" for key, a, b in changed if _matters(key, a)]
        seeds = options.get("seed_everything"), training.get("seed")
        if None not in seeds and seeds[0] is not True and seeds[0] != seeds[1]:
            other.append(f"seed_everything is {seeds[0]} here and {seeds[1]} there")
        if not other:
            return path, merged
        reasons.append(f"--ckpt_path last: {path} is of another run: {other[0]}.")
    if not reasons:
        return None
    raise CheckpointError(
        f"{reasons[0]}\nA run resumes with the options that it began with. Use them, or give this run a folder of its "
        "own: --trainer.default_root_dir DIR."
    )


def _matters(key: str, mine: Any) -> bool:
    """Tell whether another value of an option makes another run."""
    name = key.rpartition(".")[2]
    return not (key.startswith("data.") and name in _FREE) and not (mine is None and name in _FOUND)
