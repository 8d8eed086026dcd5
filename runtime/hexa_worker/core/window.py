"""How many deliveries a process should hold: enough to stay busy, no more than it can soon finish.

A process that hoards starves its siblings and has more to redeliver after a crash; one that holds too
little waits for its broker. The window is what was handled in the last `HORIZON_S` at the present rate.
"""

HORIZON_S = 0.25


def next_window(window: int, handled: int, elapsed_s: float, *, floor: int, ceiling: int) -> int:
    """The window after `handled` deliveries ended in the last `elapsed_s` seconds.

    Args:
        window: the present window.
        handled: how many ended since the last call.
        elapsed_s: seconds since the last call.
        floor: never less: what keeps every lane busy while the next batch is fetched.
        ceiling: never more: the mailbox's limit.
    """
    if elapsed_s <= 0:
        return window
    wanted = handled / elapsed_s * HORIZON_S
    # At most twice or half the present one: a single odd interval must not matter much.
    wanted = min(max(wanted, window / 2), window * 2)
    return max(min(int(wanted), ceiling), min(floor, ceiling))
