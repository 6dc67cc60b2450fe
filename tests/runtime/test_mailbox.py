# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading
import time

from longscape_ros.runtime.mailbox import Mailbox


def test_the_newest_item_wins_and_the_loss_is_counted() -> None:
    box: Mailbox[int] = Mailbox()
    assert box.put(1) is None
    assert box.put(2) == 1
    assert box.take(0) == 2
    assert box.take(0) is None
    assert box.dropped == 1


def test_an_item_that_is_false_is_still_an_item() -> None:
    box: Mailbox[int] = Mailbox()
    box.put(0)
    assert box.put(1) == 0
    assert box.dropped == 1


def test_taking_waits_for_an_item_from_another_thread() -> None:
    box: Mailbox[str] = Mailbox()
    threading.Timer(0.05, box.put, ["late"]).start()
    assert box.take(5) == "late"


def test_taking_gives_up_after_the_timeout() -> None:
    begin = time.perf_counter()
    assert Mailbox[int]().take(0.05) is None
    assert 0.04 < time.perf_counter() - begin < 2


def test_closing_wakes_the_one_who_waits_and_refuses_what_comes() -> None:
    box: Mailbox[int] = Mailbox()
    threading.Timer(0.05, box.close).start()
    assert box.take() is None
    assert box.put(3) == 3
    assert box.take() is None
    assert box.dropped == 1


def test_under_load_every_item_is_either_taken_in_order_or_given_back() -> None:
    box: Mailbox[int] = Mailbox()
    taken: list[int] = []

    def consume() -> None:
        while (item := box.take()) is not None:
            taken.append(item)

    consumer = threading.Thread(target=consume)
    consumer.start()
    replaced = [item for i in range(5000) if (item := box.put(i)) is not None]
    deadline = time.monotonic() + 5
    while 4999 not in taken and time.monotonic() < deadline:
        time.sleep(0.001)
    box.close()
    consumer.join(5)
    assert taken == sorted(taken)
    assert sorted(taken + replaced) == list(range(5000))
    assert box.dropped == len(replaced)
