"""A laboratory of real networks: hosts in namespaces of this machine, with links that fail."""

from p2p.testing.netlab.lab import Host, Netlab, open_netlab
from p2p.testing.netlab.namespaces import NetlabUnavailable

__all__ = ["Host", "Netlab", "NetlabUnavailable", "open_netlab"]
