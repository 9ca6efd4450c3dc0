import threading
import time

import pytest

from common.ahead import Room, ahead


def test_results_come_in_order_whichever_thread_is_first():
    first_may_end = threading.Event()

    def make(item):
        if item == 0:
            assert first_may_end.wait(10)
        elif item == 2:
            first_may_end.set()
        return item * item

    assert list(ahead(make, range(6), threads=3)) == [0, 1, 4, 9, 16, 25]
    assert list(ahead(make, [])) == []


def test_no_more_than_asked_for_is_made_ahead():
    taken = []

    def items():
        for item in range(10):
            taken.append(item)
            yield item

    results = ahead(lambda item: item, items(), threads=2, most=3)
    assert next(results) == 0
    assert taken == [0, 1, 2, 3]
    assert next(results) == 1
    assert taken == [0, 1, 2, 3, 4]


def test_an_error_comes_at_its_place():
    def make(item):
        if item == 2:
            raise ValueError("two")
        return item

    results = ahead(make, range(5), threads=4)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)
    assert list(results) == []


def test_a_consumer_that_stops_cancels_what_has_not_begun():
    second_began, may_end = threading.Event(), threading.Event()
    made = []

    def make(item):
        made.append(item)
        if item == 1:
            second_began.set()
            may_end.wait(10)
        return item

    results = ahead(make, range(9), threads=1, most=4)
    assert next(results) == 0
    assert second_began.wait(10)
    threading.Timer(0.2, may_end.set).start()  # closing cancels first, and waits then
    results.close()
    assert made == [0, 1]


class Memory:
    """What items of given sizes hold at most together, while they are made and until the next one is asked for."""

    def __init__(self, sizes):
        self.sizes, self.held, self.most, self.lock = sizes, 0, 0, threading.Lock()

    def need(self, item):
        return 2 * self.sizes[item]

    def make(self, item):
        with self.lock:
            self.held += self.sizes[item]
            self.most = max(self.most, self.held)
        time.sleep(0.001 * (item % 3))
        return item

    def used(self, item):
        with self.lock:
            self.held -= self.sizes[item]


@pytest.mark.parametrize("sizes", [[10] * 40, [1] * 10 + [100] * 10 + [1] * 10, [300, 1, 1, 300, 1, 300], [0] * 9])
@pytest.mark.parametrize("threads", [1, 8])
def test_results_together_stay_within_their_room(sizes, threads):
    memory = Memory(sizes)
    room = Room(100, memory.need, lambda item: sizes[item])
    made = []
    for item in ahead(memory.make, range(len(sizes)), threads, 4 * threads, room):
        made.append(item)
        memory.used(item)
    assert made == list(range(len(sizes))) and room.held == 0
    assert memory.most <= max(100, *sizes)


def test_a_consumer_that_stops_leaves_nobody_waiting_for_room():
    room = Room(10, lambda item: 10, lambda item: 10)
    results = ahead(lambda item: item, range(50), 4, 16, room)
    assert next(results) == 0
    results.close()  # returns


def test_an_error_of_the_items_leaves_nobody_waiting_for_room():
    def items():
        yield from range(3)
        raise ValueError("items")

    with pytest.raises(ValueError, match="items"):
        next(ahead(lambda item: item, items(), 2, 4, Room(10, lambda item: 10, lambda item: 10)))


def test_errors_give_their_room_back():
    def make(item):
        raise ValueError(item)

    for failing in (make, lambda item: item):
        need = (lambda item: 10) if failing is make else make
        results = ahead(failing, range(8), 4, 8, Room(10, need, lambda item: 10))
        with pytest.raises(ValueError, match="0"):
            next(results)
        results.close()
