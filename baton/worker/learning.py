"""What a worker learns while it works, from its engine's steps and its hand-offs."""

from __future__ import annotations

from collections.abc import Callable

from baton.engine.types import EngineConfig, StepOutput
from baton.policy.learned import Learned, Road, WorkerLearner
from baton.worker import metrics


class Learning:
    """A worker's learner, fed by its engine and shown as metrics. Lives on the event loop."""

    def __init__(self, config: EngineConfig) -> None:
        self._learner = WorkerLearner(config.max_batch_tokens, config.max_sequences)
        self._fetch_road: Callable[[], Road] | None = None
        self.observe_handoff = self._learner.observe_handoff
        self.road = self._learner.road

    def ask_fetch_road(self, fetch_road: Callable[[], Road]) -> None:
        """Where to learn what fetching from kvstore costs."""
        self._fetch_road = fetch_road

    def observe(self, output: StepOutput) -> None:
        """Takes one step's news."""
        load = output.load
        if load.num_prompt_tokens or load.num_decode_tokens:
            ratio = self._learner.observe_step(
                load.num_prompt_tokens,
                load.num_decode_tokens,
                load.num_context_tokens,
                load.step_us,
            )
            metrics.observe_ratio(ratio)

    def learned(self) -> Learned:
        """All that was learnt so far."""
        if self._fetch_road is not None:
            self._learner.fetch = self._fetch_road()
        learned = self._learner.learned()
        metrics.show_model(learned.steps)
        return learned
