"""Cancel a run's jobs, or those from a stage on; of a local run say which process to stop.

    python jobs/cancel.py tiny_coqa/main
    python jobs/cancel.py tiny_coqa/main evaluate     training goes on

What is finished stays. runs_dir=FOLDER says where runs are kept (default runs).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from qa_dist.cluster.find_runs import find_run, read_words
from qa_dist.cluster.stop import stop_run
from qa_dist.records import InputError


def main(argv: Sequence[str]) -> int:
    """Return the exit status: 0 cancelled, or nothing to cancel; 2 bad input."""
    if not argv or any(word in ("-h", "--help", "help") for word in argv):
        print((__doc__ or "").strip())
        return 0
    try:
        words, _, runs_dir = read_words(argv, 2)
        if not words:
            raise InputError("which run? Give its folder, or recipe/name")
        print("\n".join(stop_run(find_run(words[0], runs_dir), *words[1:])))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
