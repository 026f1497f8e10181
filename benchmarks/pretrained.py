"""Makes a network of ``intff_lightning/pretrained``: trains its config, and tests the best weights once.

The best weights are those with the highest validation accuracy. They are stored in float16 if this changes no class of
the validation and test images, and in float32 otherwise. ``--run`` takes a finished run of ``fit`` with this config and
trains nothing. ``manifest.json`` gets the entry of the network.
"""

import argparse
import contextlib
import hashlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.accuracy import data_options, fit, run
from intff_lightning import IntFFModule
from intff_lightning.checkpoints import AtomicCheckpointIO, read_checkpoint
from intff_lightning.cli import main as intff
from intff_lightning.files import atomic_write
from intff_lightning.functional import float_pixels
from intff_lightning.pretrained import FOLDER, MANIFEST, read_manifest
from intff_lightning.recipe import differences, from_recipe
from intff_lightning.reporting.results import about

HELP = "a trained network for the package"

CONFIGS = {
    "digits": "digits",
    "fashion_mnist_conv": "fashion_mnist_conv",
    "mnist": "mnist",
    "mnist_by_class": "paper/table1_intff_784_200-200-200_50-50_channels",
    "mnist_conv": "mnist_conv",
}
"""The networks, and their configs."""
_FREE = ("data_dir", "download", "num_workers")  # of the machine
_FOUND = ("encoder", "input_shape", "num_classes")  # by the data, if the config does not give them


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(out=FOLDER)
    parser.add_argument("--network", required=True, choices=CONFIGS, help="its name")
    parser.add_argument("--seed", type=int, default=0, help="seed of the training (default: 0)")
    parser.add_argument("--run", type=Path, help="log folder of a finished run of this config and seed")


def main(arguments: argparse.Namespace) -> None:
    name, out, seed = arguments.network, arguments.out, arguments.seed
    config, logs = CONFIGS[name], out / "logs" / name
    shutil.rmtree(logs, ignore_errors=True)
    if arguments.run is None:
        fit(config, seed, logs, arguments.data_dir, "--test_after_fit", "false")
    (best,) = (arguments.run or logs).rglob("best.ckpt")
    checkpoint = lean(read_checkpoint(best))
    check(checkpoint, config, seed)
    path = out / f"{name}.ckpt"
    out.mkdir(parents=True, exist_ok=True)
    whole: dict[str, torch.Tensor] = checkpoint["state_dict"]
    small = {key: value.half() if value.dtype == torch.float32 else value for key, value in whole.items()}
    both = [{**checkpoint, "state_dict": weights} for weights in (whole, small)]
    same = torch.equal(*(classes(each, path, arguments.data_dir) for each in both))
    AtomicCheckpointIO().save_checkpoint(both[same], path)
    where = data_options(config, arguments.data_dir)
    metrics, _ = run(["test", "--ckpt_path", str(path), *where], logs / "test")
    entry = {
        "name": name,
        "config": config,
        "seed": seed,
        "test_accuracy": round(100 * metrics["test/accuracy"], 2),
        "parameters": sum(value.numel() for value in small.values() if value.is_floating_point()),
        "stored": "float16" if same else "float32",
        "bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "command": f"python -m benchmarks pretrained --network {name} --seed {seed}",
        **about(),
    }
    entries = {each["name"]: each for each in read_manifest(out)} | {name: entry}
    with atomic_write(out / MANIFEST) as partial:
        partial.write_text(json.dumps([entries[key] for key in sorted(entries)], indent=1) + "\n")
    shutil.rmtree(logs)
    if not any(logs.parent.iterdir()):  # another network may be in training
        logs.parent.rmdir()
    print(f"written: {path}, {out / MANIFEST}")


def lean(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint without the state of its training, and without what belongs to this machine."""
    recipes = checkpoint["recipes"]
    here = {"data_dir": None, "num_workers": 0}
    recipes["data"]["init_args"].update({key: here[key] for key in here.keys() & recipes["data"]["init_args"].keys()})
    kept = ("epoch", "global_step", "pytorch-lightning_version", "state_dict", "hyper_parameters", "hparams_name")
    return {
        **{key: checkpoint[key] for key in kept if key in checkpoint},
        "recipes": recipes,
        "training": {"seed": checkpoint["training"]["seed"]},
    }


def check(checkpoint: dict[str, Any], config: str, seed: int) -> None:
    """Refuse the checkpoint of another config or seed."""
    wanted, made = parsed(config), parsed(yaml.safe_dump(checkpoint["recipes"]))
    found = [each for part in ("model", "data") for each in differences(wanted[part], made[part], part)]
    other = [
        f"{key} is {b} instead of {a}"
        for key, a, b in found
        if (name := key.rpartition(".")[2]) not in _FREE and not (a is None and name in _FOUND)
    ]
    if checkpoint["training"]["seed"] != seed:
        other.append(f"the seed is {checkpoint['training']['seed']} instead of {seed}")
    if other:
        raise SystemExit(f"this run is not one of {config} with seed {seed}: {'; '.join(other)}")


def parsed(config: str) -> dict[str, Any]:
    """Return a config with all its defaults."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        intff(["fit", "--config", config, "--print_config"])
    options: dict[str, Any] = yaml.safe_load(printed.getvalue())
    return options


def classes(checkpoint: dict[str, Any], path: Path, data_dir: str) -> torch.Tensor:
    """Return the classes of the validation and test images by a checkpoint, which is written to ``path`` for it."""
    torch.save(checkpoint, path)
    module = IntFFModule.load_from_checkpoint(path).eval()
    recipe = checkpoint["recipes"]["data"]
    options = {} if recipe["class_path"].endswith("DigitsDataModule") else {"data_dir": data_dir}
    data = from_recipe({**recipe, "init_args": {**recipe["init_args"], **options}})
    images = [float_pixels(data.dataset(part).image, torch.float32) for part in ("val", "test")]
    with torch.inference_mode():
        return torch.cat([module(some).argmax(1) for image in images for some in image.split(500)])
