"""Show the curves of runs, side by side, by TensorBoard.

    python jobs/tensorboard.py tiny_coqa/main tiny_coqa/trial      here, until Ctrl-C
    python jobs/tensorboard.py tiny_coqa/main profile=slurm        as a small job, with its ssh line

It listens on 127.0.0.1 only. port=NUMBER (default: a free one), runs_dir=FOLDER (default runs).
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from qa_dist.cluster import tensorboard  # noqa: E402
from qa_dist.cluster.find_runs import find_run, read_words  # noqa: E402
from qa_dist.cluster.queue import QueueError  # noqa: E402
from qa_dist.records import InputError  # noqa: E402
from qa_dist.run_dir import RunDir  # noqa: E402

_MOST_RUNS = 100


def main(argv: Sequence[str]) -> int:
    """Return the exit status: 0 it was shown, or is on its way; 1 it ended by itself; 2 bad
    input."""
    if not argv or any(word in ("-h", "--help", "help") for word in argv):
        print((__doc__ or "").strip())
        return 0
    try:
        keys = dict(word.split("=", 1) for word in argv if word.startswith(("port=", "profile=")))
        rest = [word for word in argv if not word.startswith(("port=", "profile="))]
        words, _, runs_dir = read_words(rest, _MOST_RUNS)
        if not words:
            raise InputError("which run? Give its folder, or recipe/name; several if you like")
        runs = [find_run(word, runs_dir) for word in words]
        port = read_port(keys.get("port", "0"))
        if keys.get("profile", "local") == "local":
            return show_here(runs, port or tensorboard.free_port())
        return show_by_job(runs, keys["profile"], port)
    except (InputError, QueueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0


def read_port(text: str) -> int:
    """Return a port; 0: any."""
    if not text.isdigit() or int(text) > 65_535:
        raise InputError(f"port={text}: expected a number of 1 to 65535")
    return int(text)


def show_here(runs: Sequence[RunDir], port: int) -> int:
    """Run TensorBoard on this machine until Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a kill ends it as Ctrl-C does
    with tensorboard.serving(runs, port) as server:
        print("\n".join([*tensorboard.address_lines(port), "Ctrl-C ends it"]), flush=True)
        server.wait()
    return 1


def show_by_job(runs: Sequence[RunDir], name: str, port: int) -> int:
    """Submit TensorBoard, and print how to reach it once it runs."""
    from qa_dist.recipe_loading import load_profile

    profile = load_profile(name, ROOT / "slurm" / "profiles")
    if profile.where != "slurm":
        raise InputError(f"profile={name}: runs on this machine; leave it out, or name a SLURM one")
    job, log = tensorboard.submit(runs, profile, port)
    for line in tensorboard.wait_for_job(job, log, lambda text: print(text, file=sys.stderr)):
        print(line)
    print(f"when you have seen enough:  scancel {job}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
