import threading

import pytest

from common.ahead import ahead


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
