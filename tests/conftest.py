"""What every test relies on.

A shell that runs a job in the background lets it ignore SIGINT, and children inherit that: tests that press Ctrl-C in
processes of their own would wait for ever.

Triton's own functions are made for its interpreter or for a GPU when it is imported, and others import it too:
transformers does. So it is imported first, with the variable set; the variable is gone before the first test.
"""

import contextlib
import os
import signal


def pytest_configure() -> None:
    before = os.environ.get("TRITON_INTERPRET")
    os.environ["TRITON_INTERPRET"] = "1"
    with contextlib.suppress(ImportError):
        import triton  # noqa: F401
    if before is None:
        del os.environ["TRITON_INTERPRET"]
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
