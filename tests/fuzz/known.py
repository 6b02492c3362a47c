"""The peers that sign in fuzz seeds: always the same ones, so that found inputs stay valid."""

import random

from p2p import Identity

ALICE = Identity.generate(random.Random(1))
BOB = Identity.generate(random.Random(2))
CAROL = Identity.generate(random.Random(3))
