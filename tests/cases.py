"""One run that tests launch, break and launch again: by a launcher, or by its training processes
alone."""

from __future__ import annotations

from pathlib import Path

from runs import fault_environ, fired, temporary_files
from zygote import Child, Zygote, free_port, rank_environ

from qa_dist.run_dir import RunDir


class Case:
    """One run, launched again and again by the same words."""

    def __init__(self, zygote: Zygote, words: list[str], folder: Path, name: str = "main") -> None:
        self.zygote, self.folder = zygote, folder
        self.words = [*words, f"runs_dir={folder / 'runs'}"]
        self.run = RunDir(folder / "runs" / "tiny_coqa" / name)
        self.log = folder / "faults.log"

    def start(self, *more: str, fault: str = "", break_it: str = "") -> Child:
        # `more` replace the words of the same key
        words = list({word.partition("=")[0]: word for word in (*self.words, *more)}.values())
        if break_it:
            words = [break_it, *words]
        work = "broken" if break_it else "launch"
        return self.zygote.start(work, *words, env=self.environ(fault))

    def launch(self, *more: str, fault: str = "", break_it: str = "") -> Child:
        child = self.start(*more, fault=fault, break_it=break_it)
        child.wait()
        return child

    def goes_on_to_the_end(self, *more: str) -> None:
        child = self.launch(*more)
        assert child.status == 0, child.text
        assert temporary_files(self.run) == []

    def environ(self, fault: str = "") -> dict[str, str]:
        """What injects a fault into a process of this run."""
        return fault_environ(fault, self.log)

    def fired(self) -> list[tuple[str, str, int | None]]:
        return fired(self.log)


class Gang:
    """Training processes of one run, without a launcher."""

    def __init__(self, case: Case, most_ranks: int = 2) -> None:
        self.case = case
        self.words = f"train.min_micro_batches_per_step={most_ranks}"
        child = case.launch(self.words, "stages=prepare")
        assert child.status == 0, child.text

    def start(self, world_size: int, fault: str = "", **env: str) -> list[Child]:
        port = free_port()
        return [
            self.case.zygote.start(
                "train",
                str(self.case.run.root),
                env={
                    **rank_environ(rank, world_size, port),
                    **self.case.environ(fault),
                    **env,
                },
            )
            for rank in range(world_size)
        ]

    def train(self, world_size: int, fault: str = "", **env: str) -> list[int]:
        return [child.wait() for child in self.start(world_size, fault, **env)]
