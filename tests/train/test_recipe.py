"""Recipes: the shipped one reads, and every mistake is named."""

from pathlib import Path

import pytest

from penstock.core.errors import ConfigError
from penstock.train import Optimization, Shape, read_recipe
from penstock.train.recipe import find_files

ROOT = Path(__file__).parents[2]
TEXT = '[[text]]\nname = "a"\nfiles = ["a"]\nshare = 1\nheld_out = ["b"]\n'


def test_the_recipe_of_the_bundled_model_reads() -> None:
    recipe = read_recipe(ROOT / "examples" / "bundled_model.toml")
    assert recipe.name == "penstock-bundled"
    assert [source.name for source in recipe.text] == ["books", "PEPs"]
    shares = [source.share for source in recipe.text]
    assert 0.1 <= shares[1] / sum(shares) <= 0.2


def test_what_is_left_out_has_its_default(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text('name = "x"\n' + TEXT)
    recipe = read_recipe(tmp_path / "r.toml")
    assert (recipe.shape, recipe.optimization, recipe.text[0].share) == (Shape(), Optimization(), 1.0)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('name = "x"', "no \\[\\[text\\]\\]"),
        (TEXT, "name"),
        ('name = "x"\nspeed = 3\n' + TEXT, "speed"),
        ("name = 3\n" + TEXT, "name is 3"),
        ('name = "x"\n' + TEXT + "hold_out_every = 20", "hold_out_every 20"),
        ('name = "x"\n' + TEXT.replace("share = 1", "share = 0"), "share 0"),
        ('name = "x"\n' + TEXT.replace('"a"]', "4]"), "files"),
        ('name = "x"\n' + TEXT + "[shape]\nnum_heads = 3", "3 heads"),
        ('name = "x"\n' + TEXT + "[shape]\nnum_layers = 0", "outside"),
        ('name = "x"\n' + TEXT + "[optimization]\ndecay_share = 2.0", "decay_share"),
        ('name = "x"\n' + TEXT + "[optimization]\nnum_rows = true", "num_rows is True"),
        ("name = ", "not a recipe"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "r.toml").write_text(content)
    with pytest.raises(ConfigError, match=says):
        read_recipe(tmp_path / "r.toml")


def test_patterns_without_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="books_"):
        find_files(tmp_path, ("books_*.jsonl",))
