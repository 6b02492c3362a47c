"""A worker that dies, while a process that it has started holds its output, as hivemind's do."""

import subprocess
import sys

if __name__ == "__main__":
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
