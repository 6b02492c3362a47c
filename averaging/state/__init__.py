"""State from peers: donors serve snapshots, a newcomer fetches one from several at once."""

from averaging.state.donor import DonorConfig, StateDonor, open_state_donor
from averaging.state.fetch import FetchConfig, fetch_state
from averaging.state.manifest import Manifest, Snapshot, StateTable

__all__ = [
    "DonorConfig",
    "FetchConfig",
    "Manifest",
    "Snapshot",
    "StateDonor",
    "StateTable",
    "fetch_state",
    "open_state_donor",
]
