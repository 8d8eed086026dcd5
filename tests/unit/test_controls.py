"""What an operator changes, as values."""

import msgspec
import pytest

from hexa_worker.core.controls import AS_CONFIGURED, MAX_KEY_BYTES, MAX_KEYS, MAX_PAUSED_BYTES, NOT_PAUSED, Controls


def test_a_whole_subscription_and_its_keys_are_paused_apart() -> None:
    controls = AS_CONFIGURED.with_pause("a", None).with_pause("a", b"k").with_pause("b", b"k")
    assert controls.pause_of("a").whole
    assert controls.pause_of("a").keys == {b"k"}
    assert not controls.pause_of("b").whole
    assert controls.pause_of("c") is NOT_PAUSED
    assert controls.revision == 3


def test_resuming_a_subscription_resumes_its_keys_and_nothing_else() -> None:
    controls = AS_CONFIGURED.with_pause("a", b"k").with_pause("a", b"l").with_pause("b", None)
    assert controls.without_pause("a", b"k").pause_of("a").keys == {b"l"}
    resumed = controls.without_pause("a", None)
    assert set(resumed.paused) == {"b"}
    assert resumed.revision == controls.revision + 1
    assert not resumed.without_pause("b", None).paused


def test_what_is_paused_is_bounded() -> None:
    with pytest.raises(ValueError, match="limit"):
        AS_CONFIGURED.with_pause("a", b"x" * (MAX_KEY_BYTES + 1))
    controls = AS_CONFIGURED
    for number in range(MAX_KEYS):
        controls = controls.with_pause("a", b"%d" % number)
    assert controls.with_pause("a", b"1").pause_of("a") == controls.pause_of("a")
    with pytest.raises(ValueError, match="pause the whole subscription"):
        controls.with_pause("a", b"one more")


def test_the_keys_of_all_subscriptions_together_are_bounded() -> None:
    controls = AS_CONFIGURED
    key = b"%04d".ljust(MAX_KEY_BYTES, b"x")
    for number in range(MAX_PAUSED_BYTES // MAX_KEY_BYTES):
        controls = controls.with_pause(f"a{number % 3}", key % number)
    with pytest.raises(ValueError, match="pause a whole subscription"):
        controls.with_pause("b", b"one more")
    assert controls.with_pause("a1", key % 1).pause_of("a1") == controls.pause_of("a1")


def test_it_is_the_same_after_a_way_through_a_file_and_a_socket() -> None:
    controls = AS_CONFIGURED.with_pause("a", b"\xff\x00").with_pause("b", None)
    for codec in (msgspec.json, msgspec.msgpack):
        assert codec.decode(codec.encode(controls), type=Controls) == controls
