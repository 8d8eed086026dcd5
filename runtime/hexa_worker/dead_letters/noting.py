"""What is done with a dead letter is part of its event's lineage."""

from collections.abc import Sequence
from typing import Literal

from hexa_worker.core.channels import base_of, retry_channel
from hexa_worker.dead_letters.dead_letter import StoredDeadLetter
from hexa_worker.dead_letters.dead_letters import OnChange
from hexa_worker.lineage.entries import LineageEntry
from hexa_worker.lineage.recorder import Recorder


def recorded_in(recorder: Recorder) -> OnChange:
    """What `DeadLetters` calls with the letters that it redrove or purged."""

    def on_change(outcome: Literal["redriven", "purged"], letters: Sequence[StoredDeadLetter], at_ms: int) -> None:
        for letter in letters:
            recorder.put(
                LineageEntry(
                    event_id=letter.event_id,
                    root_id=letter.root_id,
                    parent_id=letter.parent_id,
                    action=letter.action,
                    attempt=letter.attempt,
                    outcome=outcome,
                    at_ms=at_ms,
                    channel=letter.delivery.channel,
                    message_id=letter.id,
                    next=retry_channel(base_of(letter.delivery.channel), 1) if outcome == "redriven" else None,
                )
            )

    return on_change
