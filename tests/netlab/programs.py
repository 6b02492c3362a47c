"""Small programs that hosts run, given to `python -c`, and how to talk to them."""

from __future__ import annotations

import subprocess
import sys

from p2p.testing.netlab import Host


def start(host: Host, program: str, *arguments: object) -> subprocess.Popen[str]:
    """One of the small programs on a host."""
    return host.start([sys.executable, "-c", program, *map(str, arguments)])


def line_of(process: subprocess.Popen[str]) -> str:
    """The next line that a process says."""
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    assert line, f"it ended with {process.wait()}"
    return line


def ask(process: subprocess.Popen[str], text: object) -> None:
    """Write a line to a process."""
    assert process.stdin is not None
    process.stdin.write(f"{text}\n")
    process.stdin.flush()


TRY_ALL = """
import socket, sys
address = sys.argv[1]
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    with socket.socket(socket.AF_INET, kind) as one:
        one.settimeout(float(sys.argv[2]))
        try:
            one.connect((address, 9))
            one.send(b"anybody there?")
            one.recv(1)
        except OSError as exc:
            print(type(exc).__name__, flush=True)
"""
"""Connects to a closed port and sends to another; prints what the kernel says about each."""

ANSWER = """
import socket, sys
with socket.create_server((sys.argv[1], 0)) as listener:
    print(listener.getsockname()[1], flush=True)
    connection, _ = listener.accept()
    with connection:
        while data := connection.recv(65536):
            connection.sendall(data)
"""
"""Sends back what one connection sends."""

TALK = """
import socket, sys, time
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as connection:
    connection.settimeout(60)
    for line in sys.stdin:
        begun = time.monotonic()
        sent = bytes(int(line))
        rest = len(sent)
        connection.sendall(sent)
        while rest:
            data = connection.recv(65536)
            if not data:
                sys.exit("closed")
            rest -= len(data)
        print(time.monotonic() - begun, flush=True)
"""
"""For each number on stdin, sends so many bytes, and prints how long until they were back."""

SLEEP = "import time; print('there', flush=True); time.sleep(600)"

MIRROR = """
import socket, sys, threading
def answer(connection, peer):
    with connection:
        connection.sendall(f"{peer[0]} {peer[1]}\\n".encode())
        connection.recv(1)
# SO_REUSEPORT lets connections leave from the port that is listened at.
listener = socket.create_server(("0.0.0.0", int(sys.argv[1])), reuse_port=True)
print("there", flush=True)
while True:
    threading.Thread(target=answer, args=listener.accept(), daemon=True).start()
"""
"""Listens at a port; tells each who connects from where it came, and holds on to it."""

DIAL = """
import socket, sys
address, port, local_port, patience_s = sys.argv[1:]
with socket.socket() as one:
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    one.bind(("0.0.0.0", int(local_port)))
    one.settimeout(float(patience_s))
    try:
        one.connect((address, int(port)))
        print(one.makefile().readline().strip(), flush=True)
    except OSError as exc:
        print(type(exc).__name__, flush=True)
    sys.stdin.read()
"""
"""Connects from a port of its own, prints what MIRROR says or the error, and holds on to it."""

MEET = """
import socket, sys
address, port, patience_s = sys.argv[1:]
with socket.socket() as one:
    one.bind(("0.0.0.0", int(port)))
    one.settimeout(float(patience_s))
    print("there", flush=True)
    sys.stdin.readline()
    try:
        one.connect((address, int(port)))
        one.sendall(b"hello")
        print(one.recv(5).decode(), flush=True)
    except OSError as exc:
        print(type(exc).__name__, flush=True)
    sys.stdin.read()
"""
"""Connects, when told, from a port to the same one elsewhere, where nobody listens."""

DATAGRAM_MIRROR = """
import socket, sys
with socket.socket(type=socket.SOCK_DGRAM) as one:
    one.bind(("0.0.0.0", int(sys.argv[1])))
    print("there", flush=True)
    while True:
        one.sendto(*one.recvfrom(2048))
"""
"""Sends each datagram back."""

DATAGRAMS = """
import socket, sys, time
address, port, count, patience_s = sys.argv[1], *map(float, sys.argv[2:])
times = []
with socket.socket(type=socket.SOCK_DGRAM) as one:
    one.connect((address, int(port)))
    one.settimeout(patience_s)
    for number in range(int(count)):
        begun = time.monotonic()
        try:
            one.send(b"%d" % number)
            while int(one.recv(2048)) != number:
                pass
        except (TimeoutError, ConnectionRefusedError):
            continue
        times.append(time.monotonic() - begun)
print(len(times), min(times, default=0.0), flush=True)
"""
"""Sends datagrams one after the other; prints how many came back, and the quickest time."""

HEAR = """
import socket, struct, sys
with socket.socket(type=socket.SOCK_DGRAM) as one:
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.bind(("224.0.0.251", 5353))
    group = socket.inet_aton("224.0.0.251") + socket.inet_aton(sys.argv[1])
    one.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
    print("there", flush=True)
    data, peer = one.recvfrom(2048)
    print(data.decode(), peer[0], flush=True)
"""
"""Waits for a datagram to the group of mDNS."""

SHOUT = """
import socket, sys
with socket.socket(type=socket.SOCK_DGRAM) as one:
    one.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
    one.sendto(b"anybody?", ("224.0.0.251", 5353))
print("done", flush=True)
"""
"""Sends a datagram to the group of mDNS."""

MAP_NAT_PMP = """
import socket, struct, sys
gateway, inside, outside = sys.argv[1], *map(int, sys.argv[2:])
with socket.socket(type=socket.SOCK_DGRAM) as one:
    one.settimeout(10)
    one.connect((gateway, 5351))
    # RFC 6886, 3.3: version 0, opcode 2 for TCP, reserved, ports, lifetime.
    one.send(struct.pack("!BBHHHI", 0, 2, 0, inside, outside, 3600))
    version, opcode, result, epoch, inside, outside, lifetime = struct.unpack(
        "!BBHIHHI", one.recv(64))
    print(result, outside, flush=True)
"""
"""Asks the router by NAT-PMP for a mapping; prints the result's code and the port."""

MAP_UPNP = """
import sys
import miniupnpc
gateway = miniupnpc.UPnP()
gateway.discoverdelay = 2000
gateway.discover()
gateway.selectigd()
port = int(sys.argv[1])
gateway.addportmapping(port, "TCP", gateway.lanaddr, port, "a test", "", 3600)
print(gateway.externalipaddress(), flush=True)
"""
"""Asks the router by UPnP for a mapping; prints the address outside."""

ABANDON = """
import os, signal, sys
from p2p.testing.netlab import Link, open_netlab
with open_netlab() as lab:
    home = lab.add_router("home", nat="upnp", link=Link(delay_ms=5))
    sleeper = home.add_host("alice").start([sys.executable, "-c", sys.argv[1]])
    sleeper.stdout.readline()
    print(sleeper.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
"""Makes a laboratory with processes of all kinds in it, and is killed."""
