"""What `pip install penstock` costs: bytes on disk, and no torch in the serving path."""

import subprocess
import sys

import pytest
from tests.packaging.installed import base_distributions, installed_files, package_files

LIMIT_BYTES = 180_000_000
TORCH_FREE = (
    "import sys, {module}; sys.exit(any(name.split('.')[0] in ('torch', 'triton', 'ray') for name in sys.modules))"
)


def test_the_base_install_is_small() -> None:
    sizes = {
        name: sum(path.stat().st_size for path in installed_files(distribution))
        for name, distribution in base_distributions().items()
    }
    sizes["penstock"] = sum(path.stat().st_size for path in package_files())
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:8]
    assert sizes["numpy"] > 10_000_000, "the control: files are really counted"
    assert sum(sizes.values()) < LIMIT_BYTES, largest


def test_the_base_install_has_no_training_library() -> None:
    names = set(base_distributions())
    assert {"numpy", "uvicorn", "starlette"} <= names
    assert not names & {"torch", "triton", "transformers", "matplotlib", "ray"}


def test_the_extra_would_bring_torch() -> None:
    assert "torch" in base_distributions(["torch>=2.6"])


@pytest.mark.parametrize("module", ["penstock.api", "penstock.llm", "penstock.cli", "penstock.assemble"])
def test_the_serving_path_loads_no_torch(module: str) -> None:
    done = subprocess.run([sys.executable, "-c", TORCH_FREE.format(module=module)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_training_room_does_load_torch() -> None:
    done = subprocess.run([sys.executable, "-c", TORCH_FREE.format(module="penstock.train")], capture_output=True)
    assert done.returncode == 1, "the control: the probe must see torch where it is"
