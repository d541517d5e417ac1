"""Libraries that draw from global generators run in here: seeded inside, every global state as before afterwards."""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

# More threads: the last bits of a response hang on the core count. The high-pass runs both ways: sound before its time.
ROOM_SETTINGS = {"num_threads": 1, "rir_hpf_enable": False}


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed `random`, `np.random` and (where it is loaded) `pyroomacoustics.random`, with our settings of its constants.

    Import what you call before: what is loaded inside is not guarded.

    The compiled part of pyroomacoustics has a generator that can be set but not read: it is set anew afterwards, from
    the state that was found.
    """
    of_random, of_numpy = random.getstate(), np.random.get_state()
    rooms = sys.modules.get("pyroomacoustics")
    if rooms is not None:
        of_rooms, settings = rooms.random.get_rng(), {name: rooms.constants.get(name) for name in ROOM_SETTINGS}
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        if rooms is not None:
            rooms.random.seed(numpy=seed, libroom=seed)
            for name, value in ROOM_SETTINGS.items():
                rooms.constants.set(name, value)
        yield
    finally:
        random.setstate(of_random)
        np.random.set_state(of_numpy)
        if rooms is not None:
            for name, value in settings.items():
                rooms.constants.set(name, value)
            rooms.random.seed(numpy=of_rooms, libroom=int(copy.deepcopy(of_rooms).integers(2**63)))
