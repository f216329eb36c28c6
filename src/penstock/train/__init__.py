"""The door of the train room: learn a tokenizer and a small Llama-shaped model from text, and publish it.

Needs the extra `train` (torch, matplotlib). Knows nothing about serving.
"""

from penstock.train.card import Measured
from penstock.train.checkpoint import Progress
from penstock.train.loop import Budget, Record
from penstock.train.recipe import Optimization, Recipe, TextSource, read_recipe
from penstock.train.session import Folders, publish_model, train_model, use_threads
from penstock.train.shape import Shape

__all__ = [
    "Budget",
    "Folders",
    "Measured",
    "Optimization",
    "Progress",
    "Recipe",
    "Record",
    "Shape",
    "TextSource",
    "publish_model",
    "read_recipe",
    "train_model",
    "use_threads",
]
