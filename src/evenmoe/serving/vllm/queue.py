"""AdmissionQueue: vLLM's queue of waiting requests, in the order of an Admission."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from vllm.v1.core.sched.request_queue import RequestQueue
from vllm.v1.request import Request

from evenmoe.serving.admission import Admission


class AdmissionQueue(RequestQueue):  # type: ignore[misc]
    """Waiting requests that hold no KV blocks.

    submit: tells the admission of a request. order: whom to try in a step, asked when it first looks. priority_of: the
    smaller, the sooner.

    What `peek_request` shows is what `pop_request` takes. A request that is popped and prepended in one step was tried
    in vain; one that is prepended without was preempted. Both then go first, as in vLLM's own queue.
    """

    def __init__(
        self,
        admission: Admission,
        *,
        submit: Callable[[Request], None],
        order: Callable[[], Iterator[Any]],
        priority_of: Callable[[Request], int],
    ) -> None:
        self._admission, self._submit, self._order, self._priority_of = admission, submit, order, priority_of
        self._requests: dict[str, Request] = {}
        self._popped: dict[str, None] = {}
        self._upcoming: Iterator[Any] | None = None
        self._head: str | None = None
        self._seconds = 0.0

    def begin_step(self) -> None:
        """A step begins: the order is made anew when it is first asked for."""
        self._upcoming = self._head = None

    def spent(self) -> float:
        """Seconds for choosing, and for what came, since this was last asked."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def end_step(self) -> None:
        """The step is decided: whom it popped, and did not put back, is admitted."""
        self._upcoming = self._head = None
        self._admission.admitted(self._popped)
        for key in self._popped:
            del self._requests[key]
        self._popped.clear()

    def add_request(self, request: Request) -> None:
        """A request has come, or a session that held nothing goes on."""
        start = time.perf_counter()
        self._upcoming = self._head = None
        self._requests[request.request_id] = request
        self._submit(request)
        self._seconds += time.perf_counter() - start

    def peek_request(self) -> Request:
        """Whom to try next; raises IndexError where nobody is left."""
        if self._head is None:
            start = time.perf_counter()
            if self._upcoming is None:
                # what was popped still waits for the admission, until the step ends
                self._upcoming = (key for key in self._order() if key not in self._popped)
            self._head = next(self._upcoming, None)
            self._seconds += time.perf_counter() - start
            if self._head is None:
                raise IndexError("peek from an empty queue")
        return self._requests[self._head]

    def pop_request(self) -> Request:
        """Take whom `peek_request` shows."""
        request = self.peek_request()
        self._popped[request.request_id] = None
        self._head = None
        return request

    def prepend_request(self, request: Request) -> None:
        """Put a request before all others of its priority."""
        key = request.request_id
        self._popped.pop(key, None)
        self._requests[key] = request
        self._admission.put_back(key, priority=self._priority_of(request))
        self._upcoming = self._head = None

    def prepend_requests(self, requests: Iterable[Request]) -> None:
        """Put each before all others of its priority, in turn: the last of equal ones comes to be first."""
        for request in list(requests):
            self.prepend_request(request)

    def remove_request(self, request: Request) -> None:
        """A waiting request is gone. Raises ValueError where it does not wait."""
        if request.request_id not in self._requests:
            raise ValueError(f"{request.request_id} does not wait")
        self.remove_requests((request,))

    def remove_requests(self, requests: Iterable[Request]) -> None:
        """Those of them that wait are gone."""
        for request in requests:
            if self._requests.pop(request.request_id, None) is not None:
                self._popped.pop(request.request_id, None)
                self._admission.cancel(request.request_id)
        self._upcoming = self._head = None

    def __bool__(self) -> bool:
        return len(self) > 0

    def __len__(self) -> int:
        return len(self._requests) - len(self._popped)

    def __iter__(self) -> Iterator[Request]:
        """By priority, those put back before the others, the oldest first."""
        return (self._requests[key] for key in self._admission if key not in self._popped)  # type: ignore[index]
