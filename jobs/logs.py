"""Print the logs of one element of a run: its newest attempt, all ranks.

    python jobs/logs.py tiny_coqa/main                 what failed, else what runs, else the last
    python jobs/logs.py tiny_coqa/main evaluate 3      the stage and its element
    python jobs/logs.py tiny_coqa/main train --follow  goes on until the element ends

runs_dir=FOLDER says where runs are kept (default runs).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from qa_dist.cluster.find_runs import find_run, read_words
from qa_dist.cluster.follow import choose_element, follow, print_logs
from qa_dist.records import InputError


def main(argv: Sequence[str]) -> int:
    """Return the exit status: 0 printed, 2 bad input or no logs yet."""
    if not argv or any(word in ("-h", "--help", "help") for word in argv):
        print((__doc__ or "").strip())
        return 0
    try:
        words, flags, runs_dir = read_words(argv, 3, ("--follow",))
        if not words:
            raise InputError("which run? Give its folder, or recipe/name")
        run = find_run(words[0], runs_dir)
        stage, element = choose_element(run, words[1:])
        (follow if "--follow" in flags else print_logs)(run, stage, element)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
