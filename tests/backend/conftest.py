import sys
from pathlib import Path

# The reference decoder and the driver lie beside the tests.
sys.path.insert(0, str(Path(__file__).parent))
