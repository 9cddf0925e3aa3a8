from __future__ import annotations

from memphis_worker.runtime.done import SIZE, Done


def test_what_was_added_is_found_with_its_store_time_only() -> None:
    done = Done()
    assert not done.has(7, 1000)
    done.add(7, 1000)
    assert done.has(7, 1000)
    assert not done.has(7, 1001), "the stream was made anew: the same sequence is another message"
    assert not done.has(8, 1000)


def test_the_last_131072_sequences_are_remembered() -> None:
    done = Done()
    for sequence in (1, 2, SIZE, SIZE + 1):
        done.add(sequence, 10 * sequence)
    assert not done.has(1, 10)
    assert all(done.has(each, 10 * each) for each in (2, SIZE, SIZE + 1))


def test_a_message_without_a_sequence_is_never_found() -> None:
    done = Done()
    done.add(0, 5)
    assert not done.has(0, 5)
    assert not done.has(0, 0)


def test_a_store_time_of_64_bits_fits() -> None:
    done = Done()
    done.add(2**63, 2**63)
    assert done.has(2**63, 2**63)
