"""A driver whose times are known, a tenth of a second a prompt token and a step; it prints, spins and dies if told."""

from __future__ import annotations

import os
import sys
import threading
import time

from benchmarks.peers.protocol import Choices, Times, serve


class Scripted:
    def load(self, choices: Choices) -> str:
        self.options = choices.options
        if self.options.get("spins"):
            threading.Thread(target=self.spin, daemon=True).start()
        return f"scripted, OMP_NUM_THREADS {os.environ['OMP_NUM_THREADS']}"

    def spin(self) -> None:
        while True:
            pass

    def run(self, prompts: list[list[int]], new_tokens: int, variant: str) -> Times:
        first = 0.1 * len(prompts[0])
        return 0.0, [[first + 0.1 * step for step in range(new_tokens)]] * len(prompts)

    def generate(self, prompt: list[int], count: int) -> list[int]:
        print("chatter on standard output")
        if self.options.get("dies"):
            print("out of luck", file=sys.stderr, flush=True)
            os._exit(3)
        if count > 10:
            raise ValueError("too many")
        time.sleep(self.options.get("sleep_s", 0.0))
        return list(range(count))


if __name__ == "__main__":
    serve(Scripted())
