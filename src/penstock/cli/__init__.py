"""The command line: one small file a verb; importing one verb never imports another's machinery.

Knows nothing about how things are done. Invariant: answers go to stdout, everything said about them to stderr; a
failure is one line with a hint and a non-zero exit code, never a traceback.
"""

from penstock.cli.main import main

__all__ = ["main"]
