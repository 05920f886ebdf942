"""Launch a run: recipe -> prepare -> train -> evaluate -> aggregate. The one command of the suite.

    python jobs/launch.py recipe=tiny_coqa profile=local

Does only what is missing: the same command goes on after an interruption and says so when all is
done. Bad input ends with status 2 and one message before anything is written or started.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(sys.path.pop(0))  # this folder last: its tensorboard.py is no package
sys.path.insert(0, str(ROOT))

gc.disable()  # while libraries are loaded, which last: see quick_start
from qa_dist.cluster.launch import LAUNCH_KEYS, PROFILE_KEYS, RECIPES, launch  # noqa: E402
from qa_dist.profile import Profile  # noqa: E402
from qa_dist.recipe_loading import list_recipes, split_arguments  # noqa: E402
from qa_dist.records import InputError  # noqa: E402

gc.freeze()
gc.enable()


def main(argv: Sequence[str]) -> int:
    """Return the exit status: 0 done, 1 a stage failed, 2 bad input, 75 stopped in order (launch
    again)."""
    if not argv or any(word in ("-h", "--help", "help") for word in argv):
        print_help()
        return 0
    try:
        keys, overrides = split_arguments(argv, [*LAUNCH_KEYS, *PROFILE_KEYS])
        if keys.get("recipe") == "?":
            print_recipes()
            return 0
        return launch(keys, overrides)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped before anything was started", file=sys.stderr)
        return 130


def print_help() -> None:
    """Print usage, all launch keys, and all recipe settings with their defaults."""
    from qa_dist.recipe_fields import describe_fields

    print((__doc__ or "").strip() + "\n\nLaunch keys:")
    for key, text in LAUNCH_KEYS.items():
        print(f"  {key + '=':16s} {text}")
    print(
        "\nAny setting of the recipe, e.g. train.learning_rate=1e-5 sources.0.train=data/mine.json:"
    )
    for setting in describe_fields():
        print(f"  {setting.path}={setting.default}\n      {setting.doc}")
    print("\nAny setting of the profile, e.g. partition=gpu timeout_min=60 evaluate.mem_gb=32:")
    for setting in describe_fields(Profile):
        if setting.path in PROFILE_KEYS and "." not in setting.path:
            print(f"  {setting.path}={setting.default}\n      {setting.doc}")
    of_stages = [path.partition(".")[2] for path in PROFILE_KEYS if path.startswith("prepare.")]
    print(f"  and for prepare, evaluate or aggregate alone: {', '.join(of_stages)}")


def print_recipes() -> None:
    """Print each recipe's name and one-line head."""
    recipes = list_recipes(RECIPES)
    width = max(len(name) for name, _ in recipes)
    for name, head in recipes:
        print(f"{name:{width}s}  {head}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
