"""What every test relies on.

A shell that runs a job in the background lets it ignore SIGINT, and children inherit that: tests that press Ctrl-C in
processes of their own would wait for ever.
"""

import signal


def pytest_configure() -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
