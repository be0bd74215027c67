"""Slow, obvious versions of how requests become batches."""

from __future__ import annotations


def planned_batches(requests, batch_size, max_length, share):
    """(input ids, requests) of each row of each batch: lm-eval's order said in words.

    Requests whose tokens are the same but for the last share a row; the one with the longest continuation stands for
    them. Longest first, ties by token ids; then as many at a time as a batch takes.
    """
    rows = []
    seen = []
    for number, (context, continuation) in enumerate(requests):
        tokens = list(context) + list(continuation)
        if share and tokens[:-1] in seen:
            continue
        seen.append(tokens[:-1])
        together = [
            other
            for other, (its_context, its_continuation) in enumerate(requests)
            if other == number or (share and (list(its_context) + list(its_continuation))[:-1] == tokens[:-1])
        ]
        leader = together[0]
        for other in together:
            if len(requests[other][1]) > len(requests[leader][1]):
                leader = other
        led = list(requests[leader][0]) + list(requests[leader][1])
        rows.append((-len(led), led, leader, together))
    rows.sort()
    batches = []
    while rows:
        taken, rows = rows[:batch_size], rows[batch_size:]
        batches.append([(tuple(led[-(max_length + 1) :][:-1]), tuple(group)) for _, led, _, group in taken])
    return batches
