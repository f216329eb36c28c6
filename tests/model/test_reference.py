"""Names of models on the hub and the files they stand for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core import ModelFileError
from penstock.model.reference import Reference, choose, gguf_kinds, is_plain, parse_reference


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a/b", Reference("a/b")),
        ("Qwen/Qwen2.5-0.5B-Instruct-GGUF:q4_k_m", Reference("Qwen/Qwen2.5-0.5B-Instruct-GGUF", kind="Q4_K_M")),
        ("a/b:UD-Q4_K_XL", Reference("a/b", kind="UD-Q4_K_XL")),
        ("a/b/c.gguf", Reference("a/b", file="c.gguf")),
        ("a/b/Q8_0/c-00001-of-00002.gguf", Reference("a/b", file="Q8_0/c-00001-of-00002.gguf")),
        *((name, None) for name in ("a", "a/b:", "a/b/c", "../x", "a/..", "a/.b", "a--b/c", "a/b..c", "a/b/../c.gguf")),
        *((name, None) for name in ("a/b\n", "a/b:x y", "/a/b", "a//b", "http://a/b", "a/b/c.bin", "")),
    ],
)
def test_names(name: str, found: Reference | None) -> None:
    assert parse_reference(name) == found
    if found is not None:
        assert parse_reference(str(found)) == found


@given(st.text(alphabet="ab./\\:-_\x00 ~%", max_size=40))
def test_no_name_leads_out_of_the_cache(name: str) -> None:
    found = parse_reference(name)
    if found is not None:
        assert found.repo.count("/") == 1 and "--" not in found.repo
        assert not {"..", ".", ""} & set((found.repo + found.selector.replace(":", "/")).split("/")[:3])


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("Llama-3.2-1B-Instruct-Q4_K_M.gguf", "Q4_K_M"),
        ("x.BF16.gguf", "BF16"),
        ("m-iq4_xs.gguf", "IQ4_XS"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("m.i1-Q3_K_S.gguf", "I1-Q3_K_S"),
        ("UD-Q2_K_XL/m-UD-Q2_K_XL-00001-of-00001.gguf", "UD-Q2_K_XL"),
        ("Q6_K/m-00001-of-00001.gguf", "Q6_K"),
        ("phi-Q8_0-v2.gguf", "Q8_0"),
        ("weird.gguf", "weird.gguf"),
    ],
)
def test_the_type_is_in_the_name(path: str, label: str) -> None:
    assert gguf_kinds([path, "README.md", "mmproj-F16.gguf", "imatrix-Q4_0.gguf"]) == {label: (path,)}


def test_a_label_in_full_wins_and_a_type_alone_must_be_one() -> None:
    paths = ["m-UD-Q4_K_M.gguf", "m-Q4_K_M.gguf", "m-UD-Q2_K.gguf", "x-Q8_0.gguf", "y-Q8_0.gguf"]
    assert choose(paths, Reference("a/b", kind="Q4_K_M")) == ("m-Q4_K_M.gguf",)
    assert choose(paths, Reference("a/b", kind="UD-Q4_K_M")) == ("m-UD-Q4_K_M.gguf",)
    assert choose(paths, Reference("a/b", kind="Q2_K")) == ("m-UD-Q2_K.gguf",)
    with pytest.raises(ModelFileError, match=r"2 models are Q8_0: x-Q8_0.gguf, y-Q8_0.gguf"):
        choose(paths, Reference("a/b", kind="Q8_0"))


def test_a_split_model_is_whole_or_refused() -> None:
    parts = [f"m-Q4_0-{number:05d}-of-00003.gguf" for number in (1, 2, 3)]
    assert choose(reversed(parts), Reference("a/b", kind="Q4_0")) == tuple(parts)
    assert choose(parts, Reference("a/b")) == tuple(parts)
    assert choose(parts, Reference("a/b", file=parts[1])) == tuple(parts)
    with pytest.raises(ModelFileError, match=f"this file is not: {parts[0]}"):
        choose(parts[1:], Reference("a/b", kind="Q4_0"))


def test_safetensors_come_before_gguf_and_second_copies_are_left() -> None:
    small = ["config.json", "tokenizer.json", "additional_chat_templates/tool_use.jinja"]
    rest = [
        "adapter_model.safetensors",
        "consolidated.safetensors",
        "onnx/model.onnx",
        "sub/model.safetensors",
        "m-Q4_0.gguf",
    ]
    one = ["model.safetensors", *small, *rest]
    assert set(choose(one, Reference("a/b"))) == {"model.safetensors", *small}
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]
    assert set(choose([*shards, *small, *rest], Reference("a/b"))) == {*shards, *small}


@given(st.lists(st.text(alphabet="ab./\\-\n\x00", max_size=30).map(lambda stem: stem + ".safetensors"), max_size=8))
def test_nothing_odd_is_ever_chosen(paths: list[str]) -> None:
    try:
        chosen = choose([*paths, "config.json"], Reference("a/b"))
    except ModelFileError:
        chosen = ()
    assert all(is_plain(path) and ".." not in path.split("/") and not path.startswith("/") for path in chosen)
    assert not is_plain("../x") and not is_plain("a/../x") and not is_plain("/x") and not is_plain("x\n")
