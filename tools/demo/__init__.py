"""`manyhands demo`: several processes on this machine train one network; one dies, one joins."""

from tools.demo.stage import DemoOptions, run_demo

__all__ = ["DemoOptions", "run_demo"]
