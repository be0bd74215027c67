"""Schedulers without a model: a cache of so many tokens, and an engine's loop in which every answer is token 7."""

from types import SimpleNamespace

from transformers.generation.continuous_batching.requests import RequestState, RequestStatus

from evenmoe.serving.transformers.configuring import Note


class FakeCache:
    """What a scheduler asks of a PagedAttentionCache that shares no blocks."""

    use_prefix_sharing = False
    max_blocks_per_request = max_decode_fast_path_length = 0
    read_cache_limit = None

    def __init__(self, tokens=10**6, max_batch_tokens=64):
        self.tokens, self.max_batch_tokens, self.held = tokens, max_batch_tokens, {}
        self.cache_allocators = {}
        self.pool = SimpleNamespace(try_to_free_sectors=lambda: None)

    def compute_free_capacity(self):
        return 1.0

    def evict_cached_blocks(self):
        return False

    def can_store_request_tokens(self, state, length):
        if sum(self.held.values()) + length > self.tokens:
            return False
        self.held[state.request_id] = self.held.get(state.request_id, 0) + length
        return True

    def count_new_complete_blocks(self, state, length):
        return {}

    def free_blocks(self, request_id, no_cache=False):
        self.held.pop(request_id, None)


class Loop:
    """Adds requests to a scheduler, and runs its steps as transformers' processor does."""

    def __init__(self, scheduler, configured=None):
        self.scheduler, self.configured, self.steps, self.done = scheduler, configured, [], []

    def add(self, key, num_tokens, new_tokens=1, **note):
        if note:
            self.configured.note(key, Note(**note))
        ids = [1] * num_tokens
        self.scheduler.add_waiting_request(
            RequestState(request_id=key, initial_tokens=ids, max_new_tokens=new_tokens, eos_token_id=-1)
        )

    def step(self):
        """Run one step; return [(key, tokens)] of it."""
        scheduled = self.scheduler.schedule_batch(self.scheduler.cache.max_batch_tokens, 10**9)[0] or []
        self.steps.append([(future.state.request_id, future.query_length) for future in scheduled])
        for future in scheduled:
            state = future.state
            state.position_offset += future.query_length
            if future.has_new_token and state.update_and_check_completion(7, None):
                assert state.status == RequestStatus.FINISHED
                self.scheduler.finish_request(state.request_id)
                self.done.append(state.request_id)
        return self.steps[-1]

    def cancel(self, key):
        self.scheduler.set_request_cancellation(key)
        return self.scheduler.clear_cancelled_requests()

    def run(self, most=2000):
        """Run steps until nothing is left; return them."""
        while self.scheduler.has_pending_requests():
            self.step()
            assert len(self.steps) < most
        return self.steps
