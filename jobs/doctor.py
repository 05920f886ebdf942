"""Try on the cluster what runs of a profile rely on: one small job of two nodes, and a line each.

    python jobs/doctor.py profile=slurm                   a few minutes, all checks
    python jobs/doctor.py profile=slurm only=network,requeue
    python jobs/doctor.py profile=slurm recipe=coqa_bert  the encoder and the disk as well
    python jobs/doctor.py profile=slurm --json            for programs

Other words are settings of the profile, e.g. partition=high gpus_per_node=0. runs_dir=FOLDER says
where runs are kept (default runs), start_s=SECONDS how long the job may wait (default 120).
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from qa_dist.cluster.diagnosis import PROBLEM, Finding  # noqa: E402
from qa_dist.cluster.doctor import CHECKS, Examination  # noqa: E402
from qa_dist.plan import locate_inputs  # noqa: E402
from qa_dist.recipe_fields import did_you_mean  # noqa: E402
from qa_dist.recipe_loading import load_profile, load_recipe  # noqa: E402
from qa_dist.records import InputError  # noqa: E402

_KEYS = ("profile", "recipe", "only", "runs_dir", "start_s")
_MAX_START_S = 86_400


def main(argv: Sequence[str]) -> int:
    """Return the exit status: 0 all is well (or warnings), 1 a problem, 2 bad input."""
    if any(word in ("-h", "--help", "help") for word in argv):
        print((__doc__ or "").strip() + "\n\nChecks:")
        for check, text in CHECKS.items():
            print(f"  {check:10s}  {text}")
        return 0
    as_json = "--json" in argv
    found: list[Finding] = []
    # A kill cleans up as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        examination = read_words([word for word in argv if word != "--json"])
        with closing(examination.findings()) as findings:
            for one in findings:
                found.append(one)
                if not as_json:
                    show(one)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the probe is cancelled and its folder removed", file=sys.stderr)
        return 130
    if as_json:
        print(json.dumps([asdict(one) for one in found], indent=2))
    return int(any(one.level == PROBLEM for one in found))


def read_words(words: Sequence[str]) -> Examination:
    """Return what is asked for. Raises InputError."""
    keys: dict[str, str] = {}
    overrides = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise InputError(f"{word}: expected key=value; --help shows what there is")
        if key in _KEYS:
            keys[key] = value
        else:
            overrides.append(word)
    profile = load_profile(keys.get("profile", "slurm"), ROOT / "slurm" / "profiles", overrides)
    if profile.where != "slurm":
        raise InputError(f"profile={profile.name}: runs on this machine; expected one for SLURM")
    recipe = None
    if "recipe" in keys:
        recipe = load_recipe(keys["recipe"], (), ROOT / "configs" / "recipes")
        recipe = locate_inputs(recipe, ROOT)
    checks = keys["only"].split(",") if "only" in keys else list(CHECKS)
    for check in checks:
        if check not in CHECKS:
            meant = did_you_mean(check, list(CHECKS))
            raise InputError(f"only={check}: expected some of {', '.join(CHECKS)}{meant}")
    start_s = keys.get("start_s", "120")
    if not start_s.isdigit() or int(start_s) > _MAX_START_S:
        raise InputError(f"start_s={start_s}: expected seconds, at most {_MAX_START_S}")
    runs_dir = Path(keys.get("runs_dir", "runs"))
    return Examination(profile, recipe, runs_dir, checks, float(start_s), tell)


def tell(text: str) -> None:
    """Say what is being waited for."""
    print(f"({text})", file=sys.stderr, flush=True)


def show(one: Finding) -> None:
    """Print a finding as one line."""
    advice = f". To do: {one.advice}" if one.advice else ""
    text = " ".join(one.text.split())
    print(f"{one.level:7s}  {one.check:10s}  {text}{advice}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
