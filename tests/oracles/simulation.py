"""Slow, obvious versions of what evenmoe.simulation does with SimPy and arrays. Loops only."""


def lindley(arrived, service):
    """Waits of a single server, first come first served: W' = max(W + S - gap, 0)."""
    waits = [0.0]
    for number in range(1, len(arrived)):
        gap = arrived[number] - arrived[number - 1]
        waits.append(max(waits[-1] + service[number - 1] - gap, 0.0))
    return waits


def static_fcfs(arrived, service_s, size, trigger, interval_s):
    """Latency of each request where batches of the oldest `size` run one after the other.

    A batch starts when the machine is free and either `trigger` wait or the oldest has waited `interval_s`. No two
    moments may coincide.
    """
    free_s, oldest, latencies = 0.0, 0, []
    while oldest < len(arrived):
        due_s = arrived[oldest] + interval_s
        if oldest + trigger - 1 < len(arrived):
            due_s = min(due_s, arrived[oldest + trigger - 1])
        begins_s = max(free_s, due_s)
        waiting = sum(1 for moment in arrived[oldest:] if moment <= begins_s)
        taken = min(size, waiting)
        free_s = begins_s + service_s(oldest)
        latencies += [free_s - moment for moment in arrived[oldest : oldest + taken]]
        oldest += taken
    return latencies


def continuous_fcfs(requests, step_s, most_running, budget, chunk):
    """(time to first token, latency) of each (arrived_s, prompt, output), iteration by iteration.

    step_s([(number, tokens)]) is the time of one. No two moments may coincide.
    """
    waiting, running, now_s = list(range(len(requests))), [], 0.0
    done = [0] * len(requests)
    first = [None] * len(requests)
    last = [None] * len(requests)
    while waiting or running:
        if not running and requests[waiting[0]][0] > now_s:
            now_s = requests[waiting[0]][0]
        left = budget - sum(1 for number in running if done[number] >= requests[number][1])
        step = []
        for number in running:
            prompt_left = requests[number][1] - done[number]
            tokens = 1 if prompt_left <= 0 else min(prompt_left, chunk, left)
            left -= 0 if prompt_left <= 0 else tokens
            step.append((number, tokens))
        while waiting and requests[waiting[0]][0] <= now_s and len(running) < most_running and left > 0:
            number = waiting.pop(0)
            running.append(number)
            tokens = min(requests[number][1], chunk, left)
            left -= tokens
            step.append((number, tokens))
        step = [(number, tokens) for number, tokens in step if tokens]
        now_s += step_s(step)
        for number, tokens in step:
            arrived_s, prompt, output = requests[number]
            done[number] += tokens
            if done[number] >= prompt and first[number] is None:
                first[number] = now_s - arrived_s
            if done[number] == prompt + output - 1:
                last[number] = now_s - arrived_s
                running.remove(number)
    return first, last
