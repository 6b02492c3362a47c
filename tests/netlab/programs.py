"""Small programs that hosts of the laboratory run, given to `python -c`."""

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

ABANDON = """
import os, signal, sys
from p2p.testing.netlab import open_netlab
with open_netlab() as lab:
    sleeper = lab.add_host("alice").start([sys.executable, "-c", sys.argv[1]])
    sleeper.stdout.readline()
    print(sleeper.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
"""Makes a laboratory with a process in it, and is killed."""
