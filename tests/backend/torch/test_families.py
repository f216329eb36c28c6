"""The reference backend agrees with transformers on a family for every feature."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

from tests.backend.driver import Driver, make_backend
from tests.backend.test_families import PAGES, PROMPT, TOLERANCE, Case, moved, per_position

FEATURES = (
    "llama biased",
    "llama yarn",
    "qwen2_moe",
    "qwen3",
    "gemma3_text",
    "phi4 mini",
    "olmo2",
    "granite",
    "gpt_oss",
)


class TorchCase(Case):
    def drive(self, weights=None, max_model_tokens=512):
        source = weights or self.checkpoint.weights
        backend = make_backend(self.checkpoint.spec, source, kind="torch", max_model_tokens=max_model_tokens)
        return Driver(backend, page_order=PAGES)


@pytest.fixture(scope="module", params=FEATURES)
def case(request, tmp_path_factory):
    return TorchCase(request.param, tmp_path_factory.mktemp("family"))


def test_families_agree_with_transformers(case):
    driver = case.drive()
    chunked, ends = case.feed(driver, 0, [1, 16, 33, PROMPT - 50])
    steps = [driver.step(driver.row(0, at, (case.tokens[at],)), logits=True)[1][0] for at in range(PROMPT, PROMPT + 6)]
    got, expected = np.stack([*chunked, *steps]), case.reference[[*ends, *range(PROMPT, PROMPT + 6)]]
    assert per_position(got, expected) <= TOLERANCE


def test_control_one_weight_moved_is_found(case):
    driver = case.drive(moved(case.checkpoint.weights, "layers.0.o"))
    logits, ends = case.feed(driver, 0, [17, PROMPT - 17])
    assert per_position(logits, case.reference[ends]) > TOLERANCE
