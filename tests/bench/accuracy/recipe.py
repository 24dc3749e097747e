"""Recipes of training on real CamVid: the same networks and seeds by each recipe, chosen on val, reported on test.

`make bench-recipe DATA=DIR` takes hours. Each finished training is a file in `--work`; run the same command again to
resume. `--known RESULT` takes over the trainings of a result, e.g. of another machine. A recipe is a commit of lgc with
options of `lgc-train`. Of the dataset, the result has counts and scores only.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common import trees
from .trainings import Setting, TrainingFailedError, keep, run_once, train_and_score, write_json

RECIPES: dict[str, tuple[str, tuple[str, ...]]] = {
    "baseline": ("3ed29be", ()),  # the first whose lgc-train trains other networks than a search's
    "default": ("HEAD", ()),
}
"""Name -> commit, and options of `lgc-train`. HEAD becomes the commit at which the recipe began in a work folder."""
FORMS = Path(__file__).with_name("forms.py")
NETWORKS = {"fast-scnn": "peer:fast-scnn", "separable-64": "build_separable", "residual-32": "build_residual"}
"""Name -> peer, or factory in `forms.py`."""


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


def run_training(training: Training, setting: Setting) -> str:
    """Train and score on each split, and write the result; return a message. A finished training is not repeated."""

    def make(held: int) -> dict[str, Any]:
        recipe = json.loads(recipe_path(setting, training.recipe).read_text())
        tree = trees.check_out(recipe["commit"], setting.work / "trees", setting.repository)
        network = network_reference(setting, training.network)
        scores = train_and_score(training.name, setting, tree, held, training.seed, network, recipe["options"])
        return {"recipe": training.recipe, **recipe, "network": training.network, **scores}

    return run_once(training.name, setting, make)


def network_reference(setting: Setting, network: str) -> str:
    """Return the value of `--network`."""
    reference = NETWORKS[network]
    return reference if reference.startswith("peer:") else f"{setting.work / FORMS.name}:{reference}"


if __name__ == "__main__":
    main()
