"""Recipes of training on real CamVid: the same networks and seeds by each recipe, chosen on val, reported on test.

`make bench-recipe DATA=DIR` takes hours. Each finished training is a file in `--work`; run the same command again to
resume. `--known RESULT` takes over the trainings of a result, e.g. of another machine. A recipe is a commit of lgc with
options of `lgc-train`. Of the dataset, the result has counts and scores only.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lgc.profiler.machine.devices import read_cpu_model

from . import trees

RECIPES: dict[str, tuple[str, tuple[str, ...]]] = {
    "baseline": ("3ed29be", ()),  # the first whose lgc-train trains other networks than a search's
    "default": ("HEAD", ()),
}
"""Name -> commit, and options of `lgc-train`. HEAD becomes the commit at which the recipe began in a work folder."""
FORMS = Path(__file__).with_name("forms.py")
NETWORKS = {"fast-scnn": "peer:fast-scnn", "separable-64": "build_separable", "residual-32": "build_residual"}
"""Name -> peer, or factory in `forms.py`."""
TRAINED = ("miou", "pixel_accuracy", "seconds", "images", "config", "curve", "best_step", "last_miou")
SCORED = ("miou", "pixel_accuracy", "per_class", "images", "scored_at")
"""Keys of the results of `lgc-train` that are kept, where the version has them."""
SPLITS = ("val", "test")


@dataclass(frozen=True)
class Setting:
    """What all trainings have in common.

    Attributes:
        data: folder of CamVid.
        work: folder of the trainings.
        size: height and width of the images.
        batch: images of a step.
        epochs: passes over the training images.
        threads: threads of a training.
        repository: repository with the commits of the recipes.
    """

    data: Path
    work: Path
    size: tuple[int, int]
    batch: int
    epochs: int
    threads: int
    repository: Path

    def list_settings(self) -> dict[str, Any]:
        """Return what determines the results."""
        return {"input": list(self.size), "batch": self.batch, "epochs": self.epochs}


@dataclass(frozen=True)
class Training:
    """One training: a network by a recipe with a seed."""

    recipe: str
    network: str
    seed: int

    @property
    def name(self) -> str:
        """Name of its files in the work folder."""
        return f"{self.recipe}-{self.network}-seed-{self.seed}"


class TrainingFailedError(Exception):
    """A training that ended with an error; the others go on."""


def main() -> None:
    arguments = parse_arguments()
    if arguments.data is None or not arguments.data.is_dir():
        sys.exit(f"no folder {arguments.data}: CamVid cannot be downloaded here, pass its folder with --data")
    setting = Setting(
        arguments.data.resolve(),
        arguments.work.resolve(),
        tuple(arguments.input),
        arguments.batch,
        arguments.epochs,
        arguments.threads,
        arguments.repository.resolve(),
    )
    recipes = read_recipes(arguments.recipes, arguments.recipe)
    if arguments.known is not None:
        take_over(json.loads(arguments.known.read_text()), setting)
    prepare(setting, recipes)
    trainings = [
        Training(recipe, network, seed)
        for seed in arguments.seeds
        for recipe in recipes
        for network in arguments.networks
    ]
    failures = 0
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for future in [pool.submit(run_training, training, setting) for training in trainings]:
            try:
                print(future.result(), flush=True)
            except TrainingFailedError as error:
                print(error, file=sys.stderr, flush=True)
                failures += 1
    if arguments.out is not None:
        from .recipe_page import write_recipes

        write_recipes(setting.work, arguments.out, setting.data)
    sys.exit(failures > 0)


def parse_arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="folder of the result and its page; default: train only")
    parser.add_argument("--data", type=Path, help="folder of CamVid, 360x480")
    parser.add_argument("--work", type=Path, required=True, help="folder of the trainings, which is kept")
    parser.add_argument("--known", type=Path, metavar="RESULT", help="result whose trainings are not repeated")
    parser.add_argument("--recipes", nargs="*", default=["baseline", "default"], metavar="NAME")
    parser.add_argument(
        "--recipe",
        action="append",
        default=[],
        metavar="NAME=COMMIT[ OPTIONS]",
        help="another recipe, e.g. 'adamw=HEAD --optimiser adamw'; repeatable",
    )
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--input", nargs=2, type=int, default=(192, 256), help="height and width")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1, help="threads of each training")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at the same time")
    parser.add_argument("--repository", type=Path, default=trees.REPOSITORY, help="repository with the commits")
    return parser.parse_args()


def read_recipes(names: Sequence[str], others: Sequence[str]) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return the recipes of that name and those of `--recipe`."""
    recipes = {}
    for name in names:
        if name not in RECIPES:
            sys.exit(f"no recipe {name}: choose from {', '.join(RECIPES)}, or define one with --recipe NAME=COMMIT")
        recipes[name] = RECIPES[name]
    for text in others:
        name, _, rest = text.partition("=")
        if not name or not rest.split():
            sys.exit(f"--recipe {text}: not of the form NAME=COMMIT[ OPTIONS]")
        commit, *options = rest.split()
        recipes[name] = (commit, tuple(options))
    return recipes


def take_over(result: dict[str, Any], setting: Setting) -> None:
    """Write the recipes and finished trainings of a result into the work folder; stop if they differ from its own."""
    setting.work.mkdir(parents=True, exist_ok=True)
    keep(setting.work / "settings.json", result["settings"])
    for name, recipe in result["recipes"].items():
        keep(recipe_path(setting, name), recipe)
    for row in result["trainings"]:
        training = Training(row["recipe"], row["network"], row["seed"])
        path = setting.work / f"{training.name}.json"
        if not path.exists():
            write_json(path, row)


def prepare(setting: Setting, recipes: dict[str, tuple[str, tuple[str, ...]]]) -> None:
    """Write what must not change while the work folder is used: settings, forms, and the commit of each recipe."""
    setting.work.mkdir(parents=True, exist_ok=True)
    keep(setting.work / "settings.json", setting.list_settings())
    forms = setting.work / FORMS.name
    if not forms.exists():
        shutil.copyfile(FORMS, forms)
    elif forms.read_bytes() != FORMS.read_bytes():
        sys.exit(f"{FORMS} has changed since the trainings in {setting.work} began: choose another --work")
    for name, (commit, options) in recipes.items():
        path = recipe_path(setting, name)
        if path.exists() and commit == "HEAD":
            commit = json.loads(path.read_text())["commit"]
        elif commit == "HEAD" and trees.is_changed(setting.repository):
            print(f"recipe {name}: HEAD, without the uncommitted changes", file=sys.stderr)
        commit = trees.resolve_commit(commit, setting.repository)
        keep(path, {"commit": commit, "options": list(options)})
        trees.check_out(commit, setting.work / "trees", setting.repository)  # once, before several trainings need it


def recipe_path(setting: Setting, recipe: str) -> Path:
    """Return the file with a recipe's commit and options."""
    return setting.work / f"{recipe}.recipe.json"


def keep(path: Path, content: dict[str, Any]) -> None:
    """Write a file, or stop if it exists with other content."""
    if path.exists() and json.loads(path.read_text()) != content:
        sys.exit(f"{path} has {path.read_text()}, not {json.dumps(content)}: choose another --work or recipe name")
    write_json(path, content)


def run_training(training: Training, setting: Setting) -> str:
    """Train and score on each split, and write the result; return a message. A finished training is not repeated."""
    path = setting.work / f"{training.name}.json"
    with lock(path.with_suffix(".lock")) as held:
        if path.exists():
            return f"{training.name}: finished before"
        if held is None:
            return f"{training.name}: runs in another process"
        recipe = json.loads(recipe_path(setting, training.recipe).read_text())
        run = setting.work / "runs" / training.name
        network = network_reference(setting, training.network)
        size = "x".join(map(str, setting.size))
        train = ("--network", network, "--input", size, "--out", str(run), *recipe["options"])
        lengths = ("--batch", str(setting.batch), "--steps", str(count_steps(setting)), "--seed", str(training.seed))
        tree = trees.check_out(recipe["commit"], setting.work / "trees", setting.repository)
        results = {"train": call(training.name, setting, tree, held, *train, *lengths)}
        for split in SPLITS:
            score = (str(run), "--network", network, "--evaluate", "--split", split)
            results[split] = call(training.name, setting, tree, held, *score)
    content = {
        "recipe": training.recipe,
        **recipe,
        "network": training.network,
        "seed": training.seed,
        "steps": count_steps(setting),
        "threads": setting.threads,
        "machine": read_cpu_model(),
        "train": select(results["train"], TRAINED),
        "gradient_norm": describe_norms(run / "train.jsonl"),
        **{split: select(results[split], SCORED) for split in SPLITS},
    }
    write_json(path, content)
    scores = ", ".join(f"{split} mIoU {content[split]['miou']:.2f} %" for split in SPLITS)
    return f"{training.name}: {scores}, {results['train']['seconds']:.0f} s"


@contextmanager
def lock(path: Path) -> Iterator[int | None]:
    """Yield a descriptor that holds a lock, which child processes inherit; None if another process holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield descriptor
    finally:
        os.close(descriptor)


def network_reference(setting: Setting, network: str) -> str:
    """Return the value of `--network`."""
    reference = NETWORKS[network]
    return reference if reference.startswith("peer:") else f"{setting.work / FORMS.name}:{reference}"


def count_steps(setting: Setting) -> int:
    """Return the steps of the training: full batches of each epoch."""
    from lgc.search.data.datasets import load_dataset

    return setting.epochs * max(len(load_dataset(setting.data, "train")) // setting.batch, 1)


def call(name: str, setting: Setting, tree: Path, held: int, *arguments: str) -> dict[str, Any]:
    """Return the result of `lgc-train` of a source tree; stop if it fails. What it prints is in the training's log."""
    line = [*trees.command("train"), *arguments, "--data", str(setting.data), "--json"]
    log = setting.work / f"{name}.log"
    with log.open("a") as file:
        done = subprocess.run(
            line,
            cwd=setting.work,
            env=trees.environment(tree, setting.threads),
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            check=False,
            pass_fds=(held,),
        )
    if done.returncode:
        raise TrainingFailedError(f"{name}: exit code {done.returncode}, see {log}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def describe_norms(log: Path) -> dict[str, float] | None:
    """Return median, 99th percentile and maximum of the finite gradient norms of a log; None without any."""
    records = map(json.loads, log.read_text().splitlines())
    norms = sorted(norm for record in records if math.isfinite(norm := record.get("gradient_norm") or math.nan))
    if not norms:
        return None
    return {"median": statistics.median(norms), "p99": norms[math.ceil(0.99 * len(norms)) - 1], "max": norms[-1]}


def select(result: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """Return those keys of a result that its version has."""
    return {key: result[key] for key in keys if key in result}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file in one step, so that a kill leaves none half-written."""
    scratch = path.with_name(f"{path.name}.part")
    scratch.write_text(json.dumps(content, indent=2) + "\n")
    scratch.replace(path)


if __name__ == "__main__":
    main()
