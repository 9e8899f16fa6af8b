"""Which entries of a cache are evicted."""

from __future__ import annotations

import random

from vecdb.engine.system.weighted_lru import WeightedLru


class Entry:
    """An entry that counts its evictions."""

    def __init__(self, *, can_be_evicted: bool = True) -> None:
        self.used = True
        self.can_be_evicted = can_be_evicted
        self.evictions = 0

    def evict(self) -> bool:
        self.evictions += self.can_be_evicted
        return self.can_be_evicted


def test_unused_entries_are_removed_oldest_first() -> None:
    lru = WeightedLru(100)
    a, b, c = Entry(), Entry(), Entry()
    a.used = b.used = False
    assert lru.put(a, 40) == lru.put(b, 40) == {}
    a.used = True
    assert lru.put(c, 30) == {b: 40}
    assert lru.weight == 70
    lru.remove(b)
    assert lru.weight == 70
    # All are used: each is skipped once, and then the first goes; the hand has passed a before.
    a.used = c.used = True
    assert lru.put(b, 60) == {c: 30}
    assert lru.weight == 100
    lru.remove(a)
    assert lru.weight == 60


def test_single_entry_above_the_limit_stays() -> None:
    lru = WeightedLru(100)
    a, b = Entry(), Entry()
    lru.put(a, 90)
    assert lru.put(b, 500) == {a: 90} and lru.put(b, 600) == {}
    assert lru.weight == 600


def test_entry_that_cannot_be_evicted_stays_in() -> None:
    lru = WeightedLru(1)
    held, new = Entry(can_be_evicted=False), Entry()
    lru.put(held)
    removed = lru.put(new)
    assert removed == {held: 1} and lru.weight == 1
    lru.evict(removed)
    assert lru.weight == 2 and held.evictions == 0
    held.can_be_evicted, new.used = True, True
    lru.evict(lru.put(new))
    assert lru.weight == 1 and held.evictions == 1 and new.evictions == 0


def test_entry_put_again_before_a_failed_eviction_keeps_its_new_weight() -> None:
    lru = WeightedLru(10)
    held, new = Entry(can_be_evicted=False), Entry()
    lru.put(held, 8)
    removed = lru.put(new, 8)
    assert removed == {held: 8}
    lru.remove(new)
    assert lru.put(held, 3) == {}
    lru.evict(removed)
    assert lru.weight == 3


def test_random_uses_stay_within_the_limit() -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    lru, entries, model = WeightedLru(100), [Entry() for _ in range(12)], {}
    for _ in range(2_000):
        one, weight = rng.choice(entries), rng.randint(1, 60)
        if rng.random() < 0.2:
            lru.remove(one)
            model.pop(one, None)
        elif one in model and rng.random() < 0.3:
            one.used = True
        else:
            model[one] = weight
            removed = lru.put(one, weight)
            assert one not in removed
            for other, of_other in removed.items():
                assert model.pop(other) == of_other
            # None is removed that need not be: without the last one it was too much.
            if removed:
                assert sum(model.values()) + list(removed.values())[-1] > 100
            lru.evict(removed)
            assert lru.weight <= 100
        assert lru.weight == sum(model.values())
    assert sum(entry.evictions for entry in entries) > 100
