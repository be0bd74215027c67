"""Runs vLLM's scheduler without a model, step by step."""

from evenmoe.serving.vllm.modelless import BLOCK, made_up_output, new_request, new_scheduler

__all__ = ["BLOCK", "Loop", "new_request", "new_scheduler"]


class Loop:
    """Runs steps. `admitted`: who joined in each, in order. `tokens`: what each request was answered."""

    def __init__(self, scheduler):
        self.scheduler = scheduler
        self.admitted, self.handed_out = [], []
        self.tokens = {}

    def step(self):
        """One step of the engine."""
        scheduler = self.scheduler
        before = {request.request_id for request in scheduler.running}
        output = scheduler.schedule()
        self.admitted.append([one.request_id for one in scheduler.running if one.request_id not in before])
        self.handed_out.append(dict(output.num_scheduled_tokens))
        outputs = scheduler.update_from_output(output, made_up_output(scheduler, output))
        for group in outputs.values():
            for one in group.outputs:
                self.tokens.setdefault(one.request_id, []).extend(one.new_token_ids)

    def run(self, most=10_000):
        """Steps until nothing is left."""
        for _ in range(most):
            if not self.scheduler.has_unfinished_requests():
                return self
            self.step()
        raise AssertionError(f"{self.scheduler.get_request_counts()} running, waiting after {most} steps")

    @property
    def order(self):
        """Everyone, in the order of joining; whoever was preempted joins again."""
        return [name for step in self.admitted for name in step]
