"""Ctrl-C in a training: never lost, heeded between two batches, a second one at once."""

import signal
import threading

import pytest
from helpers import ctrl_c_where_it_is_lost

from tomodask.training.stopping import Stopping


def test_pressed_in_a_destructor_it_is_not_lost():
    stopping, taken = Stopping(), []

    def train(batches):
        for batch in batches:
            taken.append(batch)
            ctrl_c_where_it_is_lost()

    with pytest.raises(KeyboardInterrupt), stopping.heard():
        train(stopping.seen(range(9)))
    assert taken == [0]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_batch_is_done_to_its_end_and_a_second_one_ends_at_once():
    stopping, done = Stopping(), []

    def train(batches):
        for _ in batches:
            signal.raise_signal(signal.SIGINT)
            done.append("first")
            signal.raise_signal(signal.SIGINT)
            done.append("second")

    with pytest.raises(KeyboardInterrupt), stopping.heard():
        train(stopping.seen(range(9)))
    assert done == ["first"]


def test_what_nobody_looked_after_is_raised_at_the_end():
    stopping = Stopping()
    with pytest.raises(KeyboardInterrupt), stopping.heard():
        signal.raise_signal(signal.SIGINT)
    with stopping.heard():  # of before, nothing is left
        stopping.look()


def test_an_error_is_told_and_the_handler_is_back():
    stopping = Stopping()

    def fails():
        signal.raise_signal(signal.SIGINT)
        raise ValueError("its own")

    with pytest.raises(ValueError, match="its own"), stopping.heard():
        fails()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_in_another_thread_and_under_others_handlers_nothing_is_changed():
    seen = []

    def work():
        with Stopping().heard():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]
    for other in (signal.SIG_IGN, lambda *_: seen.append("theirs")):
        before = signal.signal(signal.SIGINT, other)
        try:
            with Stopping().heard():
                assert signal.getsignal(signal.SIGINT) is other
                signal.raise_signal(signal.SIGINT)
        finally:
            signal.signal(signal.SIGINT, before)
    assert seen[1:] == ["theirs"]
